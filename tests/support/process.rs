//! The program itself as a child process.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// A folder that goes when the test ends.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mizzen-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    pub fn write(&self, name: &str, content: &Value) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// `mizzen -c config` with more arguments; `files`: a hard limit of open files.
    pub fn start(config: &Path, arguments: &[&str], files: Option<u32>) -> Program {
        let binary = env!("CARGO_BIN_EXE_mizzen");
        let mut command = match files {
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(binary);
                shell
            }
            None => Command::new(binary),
        };
        command.arg("-c").arg(config).args(arguments);
        Program::of(command)
    }

    /// `mizzen` with these arguments, in `folder`.
    pub fn start_in(folder: &Path, arguments: &[String]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzen"));
        command.current_dir(folder).args(arguments);
        Program::of(command)
    }

    fn of(mut command: Command) -> Program {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stderr, seen) = (child.stderr.take().unwrap(), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                seen.lock().unwrap().push(line);
            }
        });
        Program { child, lines }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Lines on stderr so far.
    pub fn said(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, at most this long.
    pub async fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// CPU time used so far, in ticks of 10 ms.
    pub fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let after = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn cluster(name: &str, host: SocketAddr) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(host)}}]}]}})
}

/// A bootstrap with a bolt listener to `host`, and the admin.
pub fn fixed(port: u16, admin: u16, host: SocketAddr) -> Value {
    let routes = json!({"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "s", "timeout": "60s"}}]}]});
    let filter = json!({"@type": "type.googleapis.com/mizzen.v1.RpcProxy", "stat_prefix": "rpc",
        "downstream_protocol": "bolt", "route_config": routes});
    json!({"node": {"id": "n", "cluster": "c"}, "admin": {"address": socket(([127, 0, 0, 1], admin).into())},
        "static_resources": {"clusters": [cluster("s", host)], "listeners": [{"name": "bolt",
            "address": socket(([127, 0, 0, 1], port).into()),
            "filter_chains": [{"filters": [{"name": "rpc", "typed_config": filter}]}]}]}})
}

/// A bootstrap with a control plane at `ads` and a state folder.
pub fn dynamic(ads: SocketAddr, admin: u16, state: &Path) -> Value {
    let mut control = cluster("xds", ads);
    control["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}});
    json!({"node": {"id": "node-1", "cluster": "tests", "metadata": {"MIZZEN_STATE_DIR": state}},
        "admin": {"address": socket(([127, 0, 0, 1], admin).into())},
        "dynamic_resources": {
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
        "static_resources": {"clusters": [control]}})
}

/// The body of an admin page.
pub fn page(admin: u16, path: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", admin)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut all = String::new();
    stream.read_to_string(&mut all).ok()?;
    let status = all.split(' ').nth(1)?.parse().ok()?;
    Some((status, all))
}
