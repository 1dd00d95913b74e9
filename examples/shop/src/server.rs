//! What the three services have in common: their arguments, and serving HTTP.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::Reply;

/// How many requests a service works on at a time.
const THREADS: usize = 8;
/// The largest request that is read, in bytes.
const MAX_REQUEST: u64 = 1 << 20;

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
    let server = tiny_http::Server::http(address)
        .map_err(|error| anyhow!("failed to listen at {address}: {error}"))?;
    let Some(address) = server.server_addr().to_ip() else { bail!("{address} is no TCP address") };
    println!("listening on http://{address}");
    if arguments.required("attached").is_ok() {
        thread::spawn(|| {
            // An error ends the wait as well as the end of the stream does.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(0)
        });
    }
    let (server, service) = (Arc::new(server), Arc::new(service));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (server, service) = (server.clone(), service.clone());
            thread::spawn(move || {
                for request in server.incoming_requests() {
                    respond(request, &*service);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread of the server panicked"))?;
    }
    Ok(())
}

fn respond(mut request: tiny_http::Request, service: &impl Service) {
    let reply = match read(&mut request) {
        Ok(read) => service.answer(&read),
        Err(error) => Reply::error(400, &error.to_string()),
    };
    let json = tiny_http::Header::from_bytes("content-type", "application/json").into_iter();
    let mut response =
        tiny_http::Response::from_string(reply.body.to_string()).with_status_code(reply.status);
    json.for_each(|header| response.add_header(header));
    // A client that went away does not want its answer.
    let _ = request.respond(response);
}

fn read(request: &mut tiny_http::Request) -> Result<Request> {
    let mut text = String::new();
    request.as_reader().take(MAX_REQUEST).read_to_string(&mut text)?;
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
    let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
    Ok(Request {
        method: request.method().to_string(),
        path: path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect(),
        query: query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body,
    })
}
