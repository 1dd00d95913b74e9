//! The test case service: build, list, filter, register.
