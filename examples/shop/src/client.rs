//! Calling a service over HTTP, with JSON both ways.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::http::Request;

/// A service at an address.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
}

/// What a service answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The document; null where there was none.
    pub body: Value,
}

impl Client {
    /// A client of the service at `url`, for example `http://127.0.0.1:8080`. A call takes
    /// ten seconds at most.
    pub fn new(url: &str) -> Self {
        Self::patient(url, Duration::from_secs(10))
    }

    /// A client that waits this long for each answer.
    pub fn patient(url: &str, wait: Duration) -> Self {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(wait)).build();
        Self { agent: config.into(), url: url.trim_end_matches('/').to_owned() }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// The service did not answer, or not with JSON. A status such as 404 is no error.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.call("GET", path, &Value::Null)
    }

    /// Sends a document.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.call("POST", path, body)
    }

    /// Sends a request; a body of null is none.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Result<Reply> {
        let uri = format!("{}{path}", self.url);
        let request = Request::builder().method(method).uri(&uri);
        let response = match body {
            Value::Null => self.agent.run(request.body(())?),
            body => {
                self.agent.run(request.header("content-type", "application/json").body(body.to_string())?)
            }
        };
        let mut response = response.with_context(|| format!("{method} {uri}"))?;
        let text = response.body_mut().read_to_string().with_context(|| format!("{method} {uri}"))?;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        Ok(Reply { status: response.status().as_u16(), body })
    }
}
