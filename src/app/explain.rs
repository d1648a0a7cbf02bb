//! `mizzen explain`: asks a running proxy's admin how it would route a request, and prints the answer.

use crate::cli::ExplainArgs;
use anyhow::{Context, anyhow};
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// How long the proxy may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks and prints.
///
/// # Errors
/// The admin cannot be reached, or refuses the question.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(args).with_context(|| format!("admin at {}", args.admin))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", text(&answer));
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(args: &ExplainArgs) -> anyhow::Result<Json> {
    let mut query = String::new();
    let headers = args.headers.iter().map(|(name, value)| ("header", format!("{name}:{value}")));
    let fields = [
        ("method", args.method.clone()),
        ("host", args.host.clone()),
        ("path", args.path.clone()),
        ("listener", args.listener.clone()),
    ];
    for (key, value) in fields.into_iter().chain(headers) {
        let _ = write!(query, "{}{key}={}", if query.is_empty() { "" } else { "&" }, encoded(&value));
    }
    let mut stream = TcpStream::connect_timeout(&args.admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /explain?{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let all = String::from_utf8_lossy(&all);
    let (head, body) = all.split_once("\r\n\r\n").ok_or_else(|| anyhow!("no HTTP answer"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(serde_json::from_str(body)?),
        _ => Err(anyhow!("{}", body.trim())),
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(byte.into());
            }
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// A part of the answer; null where there is none.
fn at<'j>(json: &'j Json, path: &str) -> &'j Json {
    json.pointer(path).unwrap_or(&Json::Null)
}

/// The answer for people: one block per filter chain.
fn text(answer: &Json) -> String {
    let mut out = String::new();
    let word = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    for one in list(at(answer, "/answers")) {
        let addresses: Vec<String> = list(at(&one, "/addresses")).iter().map(word).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(out, "listener {} ({})", word(at(&one, "/listener")), addresses.join(", "));
        if at(&one, "/filter_chain").as_str().is_some_and(|name| !name.is_empty()) {
            let _ = writeln!(out, "  filter chain {}", word(at(&one, "/filter_chain")));
        }
        if !at(&one, "/virtual_host").is_null() {
            let _ = writeln!(out, "  virtual host {}", word(at(&one, "/virtual_host")));
        }
        for route in list(at(&one, "/rejected")) {
            let (at, name, why) =
                (word(at(&route, "/index")), word(at(&route, "/route")), word(at(&route, "/why")));
            let _ = writeln!(out, "  route {at} {name}: no, {why}");
        }
        if !at(&one, "/route").is_null() {
            let (at, name) = (word(at(&one, "/route/index")), word(at(&one, "/route/name")));
            let _ = writeln!(out, "  route {at} {name}: yes");
        }
        for (path, title) in [("/cluster", "cluster"), ("/location", "location")] {
            if !at(&one, path).is_null() {
                let _ = writeln!(out, "  {title} {}", word(at(&one, path)));
            }
        }
        for host in list(at(&one, "/hosts")) {
            let _ = writeln!(out, "    host {} {}", word(at(&host, "/address")), word(at(&host, "/health")));
        }
        let _ = writeln!(out, "  {}", word(at(&one, "/verdict")));
    }
    out
}
