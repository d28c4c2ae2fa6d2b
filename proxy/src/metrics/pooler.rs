//! What the pooler exposes.

series! {}
