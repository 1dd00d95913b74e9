//! The environment service.
