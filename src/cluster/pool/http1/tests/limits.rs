//! How many connections there are, for whom, and for how long.

use super::*;

#[tokio::test]
async fn the_limit_of_connections_makes_requests_wait_their_turn() {
    let run = async {
        let world = World::new(|model| model.breakers.default.max_connections = 1).await;
        let (first, server) = tokio::join!(world.acquire(), world.accept());
        let mut server = server;
        let (mut sender, mut receiver) = begin(first.unwrap(), Method::GET, BodyLength::Empty);
        let (second, ..) = tokio::join!(world.acquire(), async {
            tokio::task::yield_now().await;
            assert_eq!(world.cluster.stats.upstream_cx_overflow.get(), 1);
            tokio::join!(finish(&mut sender, &mut receiver), answer(&mut server, OK)).0.unwrap();
        });
        assert!(second.unwrap().is_reused());
        assert_eq!(world.cluster.stats.upstream_cx_total.get(), 1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn who_waits_gets_the_place_of_a_connection_that_closes() {
    let run = async {
        let world = World::new(|model| model.breakers.default.max_connections = 1).await;
        let (first, _server) = tokio::join!(world.acquire(), world.accept());
        let started = begin(first.unwrap(), Method::GET, BodyLength::Empty);
        let (second, ..) = tokio::join!(
            world.acquire(),
            async {
                tokio::task::yield_now().await;
                drop(started);
            },
            world.accept()
        );
        assert!(!second.unwrap().is_reused());
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn limits_that_leave_no_hope_fail_at_once() {
    let run = async {
        let world = World::new(|model| model.breakers.default.max_connections = 0).await;
        assert_eq!(world.acquire().await.err(), Some(Failure::before(Reason::OverflowConnections)));
        let world = World::new(|model| model.breakers.default.max_pending_requests = 0).await;
        assert_eq!(world.acquire().await.err(), Some(Failure::before(Reason::OverflowPending)));
        let world = World::new(|_| {}).await;
        let World { listener, cluster, host } = world;
        drop(listener);
        let refused = Pool::acquire(&host, &cluster, &cluster.state(), Priority::Default).await;
        assert_eq!(refused.err(), Some(Failure::before(Reason::ConnectFailed)));
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn idle_connections_of_other_hosts_give_way() {
    let run = async {
        let (one, two) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let addresses = [one.local_addr().unwrap(), two.local_addr().unwrap()];
        let cluster = cluster(&addresses, |model| model.breakers.default.max_connections = 1);
        let hosts: Vec<_> = cluster.state().hosts().cloned().collect();
        for host in &hosts {
            let lease = Pool::acquire(host, &cluster, &cluster.state(), Priority::Default).await.unwrap();
            drop(lease);
            assert_eq!(host.http1.idle(), 1);
        }
        assert_eq!(hosts.iter().map(|host| host.http1.open()).sum::<usize>(), 1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_new_connection_can_be_had_while_used_ones_are_idle() {
    let run = async {
        for limit in [1, 2] {
            let world = World::new(|model| model.breakers.default.max_connections = limit).await;
            let _first = world.used(OK).await;
            let state = world.cluster.state();
            let (lease, _second) = tokio::join!(
                Pool::acquire_new(&world.host, &world.cluster, &state, Priority::Default),
                world.accept()
            );
            assert!(!lease.unwrap().is_reused());
            assert_eq!(world.host.http1.open(), limit as usize);
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_request_that_gives_up_leaves_its_connection_to_others() {
    let run = async {
        let world = World::new(|_| {}).await;
        {
            let mut acquiring = std::pin::pin!(world.acquire());
            poll_fn(|cx| {
                assert!(acquiring.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        let (lease, _server) = tokio::join!(world.acquire(), world.accept());
        lease.unwrap();
        settle().await;
        assert_eq!(world.cluster.stats.upstream_cx_total.get(), 1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn connections_of_a_removed_host_end_after_their_exchange() {
    let run = async {
        let world = World::new(|_| {}).await;
        let mut idle = world.used(OK).await;
        let busy = begin(world.host.http1.ready().unwrap(), Method::GET, BodyLength::Empty);
        let (second, _other) = tokio::join!(world.acquire(), world.accept());
        drop(second);
        assert_eq!((world.host.http1.open(), world.host.http1.idle()), (2, 1));
        world.host.retire();
        assert_eq!((world.host.http1.open(), world.host.http1.idle()), (1, 0));
        let (mut sender, mut receiver) = busy;
        let (got, _) = tokio::join!(finish(&mut sender, &mut receiver), answer(&mut idle, OK));
        assert_eq!(got.unwrap().1, b"ok");
        drop((sender, receiver));
        assert_eq!(world.host.http1.open(), 0);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn the_last_request_of_a_connection_says_so() {
    let run = async {
        let world = World::new(|model| model.max_requests_per_connection = 1).await;
        let (lease, server) = tokio::join!(world.acquire(), world.accept());
        let mut server = server;
        let (mut sender, mut receiver) = begin(lease.unwrap(), Method::GET, BodyLength::Empty);
        let (got, sent) = tokio::join!(finish(&mut sender, &mut receiver), answer(&mut server, OK));
        got.unwrap();
        assert!(sent.contains("connection: close\r\n"), "{sent}");
        drop((sender, receiver));
        assert_eq!(world.host.http1.open(), 0);
        assert_eq!(world.cluster.stats.upstream_cx_max_requests.get(), 1);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn idle_time_is_limited_by_what_is_known() {
    let run = async {
        let world = World::new(|model| model.idle_timeout = Some(Duration::from_millis(1))).await;
        let _server = world.used(OK).await;
        settle().await;
        assert!(world.host.http1.ready().is_none());
        assert_eq!(world.cluster.stats.upstream_cx_idle_timeout.get(), 1);
        // The server says how long.
        let world = World::new(|_| {}).await;
        let _server =
            world.used("HTTP/1.1 200 OK\r\nkeep-alive: timeout=0\r\ncontent-length: 2\r\n\r\nok").await;
        assert!(world.host.http1.ready().is_none());
        // Its closes do.
        let world = World::new(|_| {}).await;
        let _server = world.used(OK).await;
        world.host.http1.learned.observe(Duration::from_millis(20), Instant::now());
        settle().await;
        world.host.http1.sweep();
        assert_eq!(world.host.http1.open(), 0);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_finds_what_its_server_closed() {
    let run = async {
        let world = World::new(|_| {}).await;
        drop(world.used(OK).await);
        while world.host.http1.open() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(world.host.http1.idle(), 0);
        assert!(world.host.http1.learned.limit(Instant::now()).is_some());
        while world.host.http1.sweeping.get() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    LocalSet::new().run_until(run).await;
}
