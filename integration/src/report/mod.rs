//! Results for people: tables for the terminal, and a page with the timeline drawn.

pub mod comparison;
pub mod statistics;
pub mod table;
