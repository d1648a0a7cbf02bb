//! Starting without a control plane: the last good snapshot serves, says that it is old, and gives way.

use mizzen::xds::state::Variant;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::ads::{Ads, Type};
use support::process::{Dir, Program, Signal, dynamic, page};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{eds_cluster, endpoints, listener, route, rpc_filter, tcp_filter};
use support::traffic::{ask, bolt_server, greet, tcp_server};

mod support;

struct World {
    dir: Dir,
    ads: Ads,
    bolt: u16,
    tcp: u16,
    admin: u16,
}

impl World {
    /// A control plane that has a bolt and a TCP listener.
    async fn start() -> World {
        let world = World {
            dir: Dir::new(),
            ads: Ads::start(),
            bolt: free_port(),
            tcp: free_port(),
            admin: free_port(),
        };
        let (b, t) = (bolt_server("b1").await, tcp_server("t1").await);
        world.publish(b, Some(t)).await;
        world
    }

    async fn publish(&self, b: SocketAddr, t: Option<SocketAddr>) {
        let mut clusters = vec![eds_cluster("b")];
        let mut hosts = vec![endpoints("b", &[b])];
        let mut listeners = vec![listener("bolt", self.bolt, &rpc_filter("r"))];
        if let Some(t) = t {
            clusters.push(eds_cluster("t"));
            hosts.push(endpoints("t", &[t]));
            listeners.push(listener("tcp", self.tcp, &tcp_filter("t")));
        }
        self.ads.set_clusters(clusters);
        self.ads.set_endpoints(hosts);
        self.ads.set_listeners(listeners);
        self.ads.set_routes(vec![route("r", "b")]);
        self.ads.push().await;
    }

    fn state(&self) -> PathBuf {
        self.dir.0.join("state/deeper")
    }

    fn file(&self) -> PathBuf {
        self.state().join(mizzen::xds::disk::FILE_NAME)
    }

    fn config(&self) -> PathBuf {
        self.dir.write("bootstrap.json", &dynamic(self.ads.address(), self.admin, &self.state()))
    }

    fn run(&self) -> Program {
        Program::start(&self.config(), &["--concurrency", "1"], None)
    }

    fn gauge(&self, name: &str) -> Option<i64> {
        let (_, text) = page(self.admin, "/stats/prometheus")?;
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Runs with the control plane until everything serves, and ends in good order.
    async fn save(&self) {
        let mut program = self.run();
        wait_listening(([127, 0, 0, 1], self.bolt).into()).await;
        wait_listening(([127, 0, 0, 1], self.tcp).into()).await;
        program.signal(Signal::TERM);
        let status = program.ended_within(Duration::from_secs(10)).await.expect("it ends");
        assert_eq!(status.code(), Some(0), "{:?}", program.said());
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_snapshot_serves_until_the_control_plane_is_back() {
    let mut world = World::start().await;
    world.save().await;
    let old = std::time::SystemTime::now();
    assert_eq!((mode(&world.state()), mode(&world.file())), (0o700, 0o600));

    world.ads.kill();
    // Refused at once, so before the second that a silent control plane is given. A busy machine may need longer
    // than that for a start: then another start has to show it.
    let mut starts = 0;
    let _program = loop {
        let begin = Instant::now();
        let program = world.run();
        wait_listening(([127, 0, 0, 1], world.bolt).into()).await;
        starts += 1;
        if begin.elapsed() < Duration::from_millis(950) {
            break program;
        }
        assert!(starts < 10, "{:?}, {:?}", begin.elapsed(), program.said());
    };
    wait_listening(([127, 0, 0, 1], world.tcp).into()).await;
    assert_eq!(ask(world.bolt, "0").await, Ok("b1".to_owned()));
    assert_eq!(greet(world.tcp).await.unwrap().1, "t1");
    wait_until("it says that it is old", || world.gauge("mizzen_snapshot_stale") == Some(1)).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let age = old.elapsed().unwrap().as_secs() as i64;
    for gauge in ["mizzen_snapshot_age_seconds", "mizzen_xds_seconds_since_contact"] {
        assert!(world.gauge(gauge).is_some_and(|told| told >= age), "{gauge}: {:?}", world.gauge(gauge));
    }

    // Back, with another host, and without the TCP listener and its cluster.
    world.publish(bolt_server("b2").await, None).await;
    let known = world.ads.requests().len();
    world.ads.restart();
    wait_until("the port is closed", || std::net::TcpStream::connect(("127.0.0.1", world.tcp)).is_err())
        .await;
    let moved = async {
        while ask(world.bolt, "0").await != Ok("b2".to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), moved).await.expect("the new host serves");
    wait_until("it is no longer old", || world.gauge("mizzen_snapshot_stale") == Some(0)).await;
    let requests = world.ads.requests();
    let first = requests[known..].iter().find(|seen| seen.is(Type::Cluster)).unwrap();
    let versions: Vec<_> = first.initial_versions.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(versions, [("b", ""), ("t", "")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_connects_and_says_nothing_gets_a_second() {
    let world = World::start().await;
    world.save().await;
    for kind in Type::ALL {
        world.ads.withhold(kind, true);
    }
    let program = world.run();
    wait_listening(([127, 0, 0, 1], world.bolt).into()).await;
    assert_eq!(ask(world.bolt, "0").await, Ok("b1".to_owned()), "{:?}", program.said());
    wait_until("it says that it is old", || world.gauge("mizzen_snapshot_stale") == Some(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_trusted_is_reported_and_ignored() {
    let mut world = World::start().await;
    world.save().await;
    world.ads.kill();
    let good = std::fs::read(world.file()).unwrap();
    let foreign = String::from_utf8_lossy(&good).contains("node-1");
    assert!(foreign, "the header names the node");
    let mut other_node = good.clone();
    let at = good.windows(6).position(|w| w == b"node-1").unwrap();
    other_node[at + 5] = b'2';
    for bad in [&good[..good.len() / 2], &other_node, b"", b"something else entirely"] {
        std::fs::write(world.file(), bad).unwrap();
        let mut program = world.run();
        wait_until("stderr names the snapshot", || {
            program.said().iter().any(|line| line.to_lowercase().contains("snapshot"))
        })
        .await;
        assert!(program.is_running());
        assert!(std::net::TcpStream::connect(("127.0.0.1", world.bolt)).is_err(), "served from {bad:?}");
    }
    // A link somebody else may have put there is not followed.
    std::fs::remove_file(world.file()).unwrap();
    let elsewhere = world.dir.0.join("elsewhere");
    std::fs::write(&elsewhere, &good).unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.file()).unwrap();
    let program = world.run();
    wait_until("stderr names the snapshot", || {
        program.said().iter().any(|line| line.to_lowercase().contains("snapshot"))
    })
    .await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", world.bolt)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_is_on_disk_within_ten_seconds() {
    let world = World::start().await;
    let mut setup = Setup::new(Variant::Sotw, 1);
    setup.state_dir = Some(world.state());
    let _proxy = setup.start(world.ads.address());
    wait_listening(([127, 0, 0, 1], world.bolt).into()).await;
    world.ads.wait_all_acked().await;
    let begin = Instant::now();
    while !std::fs::read(world.file()).is_ok_and(|bytes| bytes.windows(4).any(|w| w == b"bolt")) {
        assert!(begin.elapsed() < Duration::from_secs(11), "not saved");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Unchanged content is not written again.
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = inode(&world.file());
    world.ads.push_everything().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(inode(&world.file()), before);
}
