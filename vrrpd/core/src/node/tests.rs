//! A node at work, input by input.
