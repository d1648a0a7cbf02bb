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

/// The answer for people: one block per filter chain.
fn text(answer: &Json) -> String {
    let mut out = String::new();
    let word = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let list = |value: &Json| value.as_array().cloned().unwrap_or_default();
    for one in list(&answer["answers"]) {
        let addresses: Vec<String> = list(&one["addresses"]).iter().map(word).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(out, "listener {} ({})", word(&one["listener"]), addresses.join(", "));
        if one["filter_chain"].as_str().is_some_and(|name| !name.is_empty()) {
            let _ = writeln!(out, "  filter chain {}", word(&one["filter_chain"]));
        }
        if !one["virtual_host"].is_null() {
            let _ = writeln!(out, "  virtual host {}", word(&one["virtual_host"]));
        }
        for route in list(&one["rejected"]) {
            let (at, name, why) = (word(&route["index"]), word(&route["route"]), word(&route["why"]));
            let _ = writeln!(out, "  route {at} {name}: no, {why}");
        }
        if !one["route"].is_null() {
            let (at, name) = (word(&one["route"]["index"]), word(&one["route"]["name"]));
            let _ = writeln!(out, "  route {at} {name}: yes");
        }
        for (key, title) in [("cluster", "cluster"), ("location", "location")] {
            if !one[key].is_null() {
                let _ = writeln!(out, "  {title} {}", word(&one[key]));
            }
        }
        for host in list(&one["hosts"]) {
            let _ = writeln!(out, "    host {} {}", word(&host["address"]), word(&host["health"]));
        }
        let _ = writeln!(out, "  {}", word(&one["verdict"]));
    }
    out
}
