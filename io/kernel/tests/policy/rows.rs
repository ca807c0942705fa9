//! Rows are written and read.
