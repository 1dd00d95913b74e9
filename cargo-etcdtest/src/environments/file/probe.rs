//! `[[probes]]`: what must answer before a run begins.

use super::reader::{Node, Read, Reader};
use super::service::DEFAULT_TIMEOUT;
use crate::model::{Probe, ProbeBy};

pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Read<Probe> {
    let known = ["http", "status", "body", "tcp", "dns", "command", "timeout"];
    let mut fields = reader.fields(node, "a probe", &known)?;
    let (kind, node) = fields.take_one(reader, &["http", "tcp", "dns", "command"])?;
    let by = match kind.as_str() {
        "http" => ProbeBy::Http {
            url: reader.url(node)?,
            status: fields.take("status").map(|node| status(reader, node)).transpose()?,
            body: fields.take("body").map(|node| reader.pattern(node)).transpose()?,
        },
        "tcp" => ProbeBy::Tcp(reader.socket(node)?),
        "dns" => ProbeBy::Dns(reader.filled(node)?),
        _ => ProbeBy::Command(reader.command(node)?),
    };
    let foreign = ["status", "body"].iter().find_map(|key| fields.take(key));
    if let Some((path, value)) = foreign {
        let label = format!("only beside `http`, not beside `{kind}`");
        return Err(reader.wrong(&path, value.span(), label));
    }
    let timeout = fields.take("timeout").map(|node| reader.duration(node)).transpose()?;
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
