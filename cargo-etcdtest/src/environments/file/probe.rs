//! `[[probes]]`: what must answer before a run begins.

use super::reader::{Node, Read, Reader};
use super::service::DEFAULT_TIMEOUT;
use crate::model::{Probe, ProbeBy};

pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Read<Probe> {
    let known = ["http", "status", "body", "tcp", "dns", "command", "timeout"];
    let mut fields = reader.fields(node, "a probe", &known)?;
    let timeout = fields.optional(reader, "timeout", Reader::duration);
    let (kind, node) = fields.take_one(reader, &["http", "tcp", "dns", "command"], None)?;
    let (path, place) = (node.0.clone(), node.1.span());
    let by = match kind.as_str() {
        "http" => {
            let status = fields.optional(reader, "status", status);
            let body = fields.optional(reader, "body", Reader::pattern);
            reader.url(node).map(|url| ProbeBy::Http { url, status, body })
        }
        "tcp" => reader.socket(node).map(ProbeBy::Tcp),
        "dns" => reader.filled(node).map(ProbeBy::Dns),
        _ => reader.command(node).map(ProbeBy::Command),
    };
    for (path, value) in ["status", "body"].iter().filter_map(|key| fields.take(key)) {
        reader.wrong(&path, value.span(), format!("only beside `http`, not beside `{kind}`"));
    }
    let by = by?;
    if reader.document.written(place.clone()).contains("{port}") {
        let help = "write `${services.NAME.port}` or `${services.NAME.url}`".to_owned();
        return Err(reader.wrong_as(&path, place, "`{port}` is known to a service only", Some(help)));
    }
    Ok(Probe { by, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT) })
}

fn status(reader: &mut Reader<'_>, node: Node<'_>) -> Read<u16> {
    const EXPECTED: &str = "a status of HTTP, from 100 to 599";
    let (path, place) = (node.0.clone(), node.1.span());
    let status = reader.number(node, EXPECTED)?;
    if (100..600).contains(&status) {
        Ok(status)
    } else {
        Err(reader.wrong(&path, place, format!("expected {EXPECTED}")))
    }
}
