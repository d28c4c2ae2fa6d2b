//! The harness: builders for PostgreSQL, pooler, balancer and operator, and
//! the few clients that scenarios and `cargo xtask` need to drive them.
