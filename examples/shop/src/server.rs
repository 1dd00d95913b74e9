//! What the three services have in common: their arguments, and serving HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::Reply;

/// A request, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path's segments.
    pub path: Vec<String>,
    /// What follows the question mark: `name=value` pairs.
    pub query: BTreeMap<String, String>,
    /// The document; null where there was none.
    pub body: Value,
}

/// A service: answers requests, several at a time.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: &Request) -> Reply;
}

/// What a service's program was started with: `--name value` pairs, `--attached` alone.
#[derive(Debug)]
pub struct Arguments(BTreeMap<String, String>);

impl Request {
    fn read(parts: &Parts, body: &[u8]) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default();
        let segments = parts.uri.path().split('/').filter(|segment| !segment.is_empty());
        Ok(Self {
            method: parts.method.to_string(),
            path: segments.map(str::to_owned).collect(),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: if body.is_empty() { Value::Null } else { serde_json::from_slice(body)? },
        })
    }

    /// Method and path, to match on.
    pub fn route(&self) -> (&str, Vec<&str>) {
        (&self.method, self.path.iter().map(String::as_str).collect())
    }

    /// The document as a `T`, or the answer that refuses it.
    ///
    /// # Errors
    /// The document is not a `T`.
    pub fn document<T: DeserializeOwned>(&self) -> Result<T, Reply> {
        serde_json::from_value(self.body.clone()).map_err(|error| Reply::error(400, &error.to_string()))
    }
}

impl Reply {
    /// An answer.
    pub fn new(status: u16, body: Value) -> Self {
        Self { status, body }
    }

    /// A refusal and its reason.
    pub fn error(status: u16, why: &str) -> Self {
        Self::new(status, json!({ "error": why }))
    }

    /// The answer to a path that the service does not have.
    pub fn no_such_path() -> Self {
        Self::error(404, "no such path")
    }
}

impl Arguments {
    /// The arguments of this process.
    ///
    /// # Errors
    /// They are not of the form `--name value`.
    pub fn of_process() -> Result<Self> {
        let mut pairs = BTreeMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").with_context(|| format!("`{argument}` is no flag"))?;
            let value = if name == "attached" { String::new() } else { arguments.next().unwrap_or_default() };
            pairs.insert(name.to_owned(), value);
        }
        Ok(Self(pairs))
    }

    /// The value of a flag that must be there.
    ///
    /// # Errors
    /// It is missing.
    pub fn required(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("`--{name}` is missing"))
    }

    /// The number of a flag, 0 where it is missing.
    ///
    /// # Errors
    /// It is not a number.
    pub fn number(&self, name: &str) -> Result<u64> {
        let value = self.0.get(name).map_or("0", String::as_str);
        value.parse().with_context(|| format!("`--{name} {value}` is not a number"))
    }
}

/// Serves requests at `--listen`, and says on stdout where: `listening on http://…`.
/// With `--attached` the process ends when its standard input does, and so with whatever
/// started it, however that ended.
///
/// # Errors
/// The address cannot be used.
pub fn serve(arguments: &Arguments, service: impl Service) -> Result<()> {
    let address = arguments.required("listen")?;
    if arguments.required("attached").is_ok() {
        std::thread::spawn(|| {
            // An error ends the wait as well as the end of the stream does.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(0)
        });
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("failed to listen at {address}"))?;
        println!("listening on http://{}", listener.local_addr()?);
        let service = Arc::new(service);
        let respond = move |parts, body| respond(service.clone(), parts, body);
        Ok(axum::serve(listener, Router::new().fallback(respond)).await?)
    })
}

/// Answers one request on a thread that may wait, for the bank or for another service.
async fn respond(service: Arc<impl Service>, parts: Parts, body: Bytes) -> impl IntoResponse {
    let answer = tokio::task::spawn_blocking(move || match Request::read(&parts, &body) {
        Ok(request) => service.answer(&request),
        Err(error) => Reply::error(400, &error.to_string()),
    });
    let reply = answer.await.unwrap_or_else(|error| Reply::error(500, &error.to_string()));
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "application/json")], reply.body.to_string())
}
