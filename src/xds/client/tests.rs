//! The loop over a scripted stream: no sockets, paused time.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

/// What the test and the scripted streams share.
#[derive(Default)]
struct Script {
    /// Outcomes of attempts, in order; then every attempt succeeds.
    attempts: VecDeque<Result<(), String>>,
    tried: usize,
    /// What the open stream does next.
    responses: VecDeque<Result<Option<Message>, String>>,
    read: usize,
    sent: Vec<Bytes>,
    refuse_sending: bool,
    waker: Option<std::task::Waker>,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Script>>);

impl Fake {
    fn respond(&self, response: Result<Option<Message>, String>) {
        let mut script = self.0.borrow_mut();
        script.responses.push_back(response);
        if let Some(waker) = script.waker.take() {
            waker.wake();
        }
    }

    fn message(&self, len: usize) {
        self.respond(Ok(Some(Message::from(Bytes::from(vec![7; len])))));
    }
}

impl AdsConnect for Fake {
    type Stream = Fake;
    async fn connect(&mut self) -> Result<Fake, String> {
        let mut script = self.0.borrow_mut();
        script.tried += 1;
        script.attempts.pop_front().unwrap_or(Ok(())).map(|()| self.clone())
    }
}

impl AdsStream for Fake {
    fn send(&mut self, _: ResourceType, request: Bytes) -> Result<(), String> {
        let mut script = self.0.borrow_mut();
        if script.refuse_sending {
            return Err("stuck".to_owned());
        }
        script.sent.push(request);
        Ok(())
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, String>> {
        let mut script = self.0.borrow_mut();
        match script.responses.pop_front() {
            Some(response) => {
                script.read += 1;
                Poll::Ready(response)
            }
            None => {
                script.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Runs `test` beside the loop, with the build thread's two channel ends in its hands.
async fn with_loop<F: Future<Output = ()>>(
    fake: &Fake,
    events: usize,
    test: impl FnOnce(mpsc::Receiver<ClientEvent>, mpsc::Sender<ClientRequest>) -> F,
) {
    let (to_build, at_build) = mpsc::channel(events);
    let (to_client, at_client) = mpsc::channel(4);
    let backoff = FullJitter::new(Duration::from_millis(500), Duration::from_secs(30));
    let client = drive(fake.clone(), backoff, to_build, at_client);
    // The test ends by dropping its ends, and that ends the loop.
    tokio::join!(client, test(at_build, to_client));
}

fn runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

fn send(stream: u64, text: &'static str) -> ClientRequest {
    ClientRequest::Send { stream, kind: ResourceType::Cluster, bytes: Bytes::from_static(text.as_bytes()) }
}

#[test]
fn failed_attempts_are_reported_and_retried_with_growing_waits() {
    runtime(async {
        let fake = Fake::default();
        fake.0.borrow_mut().attempts.extend((0..10).map(|_| Err("refused".to_owned())));
        let started = tokio::time::Instant::now();
        with_loop(&fake, 8, async |mut events, _requests| {
            for _ in 0..10 {
                let event = events.recv().await.unwrap();
                assert!(matches!(event, ClientEvent::Disconnected { stream: None, why } if why == "refused"));
            }
            assert!(matches!(events.recv().await.unwrap(), ClientEvent::Connected { stream: 1 }));
        })
        .await;
        assert_eq!(fake.0.borrow().tried, 11);
        // 0.5+1+2+4+8+16+30+30+30+30 s is the longest the ten windows can add up to.
        assert!(started.elapsed() < Duration::from_millis(151_600), "{:?}", started.elapsed());
        assert!(started.elapsed() > Duration::from_secs(1));
    });
}

#[test]
fn response_resets_the_backoff() {
    runtime(async {
        let fake = Fake::default();
        for _ in 0..8 {
            fake.0.borrow_mut().attempts.push_back(Err("refused".to_owned()));
        }
        with_loop(&fake, 64, async |mut events, _requests| {
            while !matches!(events.recv().await.unwrap(), ClientEvent::Connected { .. }) {}
            fake.message(3);
            fake.respond(Ok(None));
            while !matches!(events.recv().await.unwrap(), ClientEvent::Disconnected { stream: Some(1), .. }) {
            }
            let ended = tokio::time::Instant::now();
            while !matches!(events.recv().await.unwrap(), ClientEvent::Connected { stream: 2 }) {}
            assert!(ended.elapsed() <= Duration::from_millis(501), "{:?}", ended.elapsed());
        })
        .await;
    });
}

#[test]
fn requests_of_an_earlier_stream_are_dropped() {
    runtime(async {
        let fake = Fake::default();
        with_loop(&fake, 8, async |mut events, requests| {
            events.recv().await.unwrap();
            requests.send(send(1, "one")).await.unwrap();
            requests.send(ClientRequest::Reset { stream: 1, why: "nonsense".to_owned() }).await.unwrap();
            let event = events.recv().await.unwrap();
            assert!(matches!(event, ClientEvent::Disconnected { stream: Some(1), why } if why == "nonsense"));
            requests.send(send(1, "while away")).await.unwrap();
            assert!(matches!(events.recv().await.unwrap(), ClientEvent::Connected { stream: 2 }));
            requests.send(send(1, "late")).await.unwrap();
            requests.send(ClientRequest::Reset { stream: 1, why: "late".to_owned() }).await.unwrap();
            requests.send(send(2, "two")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        })
        .await;
        assert_eq!(fake.0.borrow().sent, ["one", "two"]);
    });
}

#[test]
fn server_that_reads_nothing_loses_the_stream() {
    runtime(async {
        let fake = Fake::default();
        fake.0.borrow_mut().refuse_sending = true;
        with_loop(&fake, 8, async |mut events, requests| {
            events.recv().await.unwrap();
            requests.send(send(1, "x")).await.unwrap();
            assert!(matches!(events.recv().await.unwrap(), ClientEvent::Disconnected { why, .. } if why == "stuck"));
        })
        .await;
    });
}

#[test]
fn busy_build_thread_stops_the_reading_at_the_bound_and_not_the_requests() {
    runtime(async {
        let fake = Fake::default();
        with_loop(&fake, 1, async |mut events, requests| {
            // The build thread takes nothing in; forty 1 MB responses arrive.
            for _ in 0..40 {
                fake.message(1024 * 1024);
            }
            for _ in 0..20 {
                requests.send(send(1, "ack")).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(fake.0.borrow().sent.len(), 20, "the two sides wait for each other");
            assert_eq!(fake.0.borrow().read, 33, "32 MiB and one more");
            // All of them arrive in the end, in order, and none twice.
            assert!(matches!(events.recv().await.unwrap(), ClientEvent::Connected { .. }));
            for _ in 0..40 {
                assert!(matches!(events.recv().await.unwrap(), ClientEvent::Response { stream: 1, .. }));
            }
            fake.respond(Err("reset".to_owned()));
            assert!(matches!(
                events.recv().await.unwrap(),
                ClientEvent::Disconnected { stream: Some(1), .. }
            ));
        })
        .await;
    });
}

#[test]
fn what_a_dead_stream_delivered_comes_before_its_end() {
    runtime(async {
        let fake = Fake::default();
        fake.message(1);
        fake.message(1);
        fake.respond(Err("reset".to_owned()));
        with_loop(&fake, 1, async |mut events, _requests| {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let mut seen = String::new();
            for _ in 0..5 {
                seen.push(match events.recv().await.unwrap() {
                    ClientEvent::Connected { .. } => 'C',
                    ClientEvent::Response { .. } => 'R',
                    ClientEvent::Disconnected { .. } => 'D',
                });
            }
            assert_eq!(seen, "CRRDC");
        })
        .await;
    });
}
