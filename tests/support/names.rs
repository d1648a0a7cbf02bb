//! A resolver whose answers a test decides.

use mizzen::control::dns::{Answer, Looking, Lookup, Resolve};
use mizzen::model::DnsFamily;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

/// What every name stands for now; nothing: looking it up fails.
#[derive(Default)]
pub struct Names(pub Mutex<Vec<IpAddr>>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str, _: DnsFamily) -> Looking<'a> {
        let addresses = self.0.lock().unwrap().clone();
        Box::pin(async move {
            if addresses.is_empty() {
                return Err(Lookup::Failed("the test says so".into()));
            }
            Ok(Answer { addresses, ttl: Duration::from_millis(1) })
        })
    }
}
