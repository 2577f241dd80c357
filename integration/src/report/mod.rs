//! Results for people: tables for the terminal, and a page with the timeline drawn.

pub mod comparison;
mod draw;
pub mod page;
pub mod promises;
pub mod statistics;
pub mod table;
