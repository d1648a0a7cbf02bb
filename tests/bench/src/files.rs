//! What HAProxy and nginx are told: files in their own languages.

use std::path::Path;

use crate::config::Role;

/// HAProxy's file.
pub fn haproxy(role: Role, port: u16, backend: u16) -> String {
    let (mode, proto) = match role {
        Role::H2c => ("http", " proto h2"),
        Role::H1(_) => ("http", ""),
        _ => ("tcp", ""),
    };
    // As Mizzen and Envoy do: connections to the backend are everybody's.
    let reuse = if mode == "http" { "    http-reuse always\n" } else { "" };
    format!(
        "global\n    nbthread 1\n    maxconn 9000\n    tune.h2.max-concurrent-streams 1000\n\
         defaults\n    mode {mode}\n    timeout client 1h\n    timeout server 1h\n    timeout connect 5s\n\
         frontend in\n    bind 127.0.0.1:{port}{proto} backlog 8192\n    default_backend out\n\
         backend out\n{reuse}    server one 127.0.0.1:{backend}{proto}\n"
    )
}

/// nginx's file, for HTTP/1: towards backends it speaks nothing newer. `folder` is for what it keeps on disk.
pub fn nginx(port: u16, backend: u16, folder: &Path) -> String {
    let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {};\n", folder.join(name).display()))
        .concat();
    format!(
        "daemon off;\nworker_processes 1;\nmaster_process off;\npid {pid};\nerror_log stderr warn;\n\
         events {{\n    worker_connections 16000;\n}}\n\
         http {{\n{kept}    access_log off;\n    keepalive_requests 1000000000;\n    keepalive_timeout 1h;\n\
         \x20   upstream out {{\n        server 127.0.0.1:{backend};\n        keepalive 1024;\n        \
         keepalive_requests 1000000000;\n    }}\n\
         \x20   server {{\n        listen 127.0.0.1:{port} backlog=8192;\n        location / {{\n            \
         proxy_pass http://out;\n            proxy_http_version 1.1;\n            \
         proxy_set_header Connection \"\";\n            proxy_set_header Host $http_host;\n        }}\n    }}\n}}\n",
        pid = folder.join("nginx.pid").display(),
    )
}
