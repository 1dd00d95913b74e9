//! A run: plan, claims, attempts, recording.
