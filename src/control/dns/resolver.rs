//! Who knows what a name stands for.

use super::choose;
use crate::model::DnsFamily;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Addresses of the wanted families, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// How long the answer holds.
    pub ttl: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name has no addresses of the wanted families.
    Empty,
    /// Nobody could say.
    Failed(String),
}

/// A look-up under way.
pub type Looking<'a> = Pin<Box<dyn Future<Output = Result<Answer, Lookup>> + Send + 'a>>;

/// Finds addresses of names.
pub trait Resolve: Send + Sync {
    /// The addresses of `name`.
    fn resolve<'a>(&'a self, name: &'a str, family: DnsFamily) -> Looking<'a>;
}

/// The servers and the hosts file of the system, read at the first question: most proxies never ask one.
/// Answers are not cached: the askers know when to ask again.
#[derive(Default)]
pub struct SystemResolver(OnceLock<Result<TokioResolver, String>>);

fn system() -> Result<TokioResolver, String> {
    let builder = TokioResolver::builder_tokio().map(|mut builder| {
        builder.options_mut().cache_size = 0;
        builder.build()
    });
    builder.and_then(|built| built).map_err(|error| error.to_string())
}

impl SystemResolver {
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, Lookup> {
        let resolver = self.0.get_or_init(system);
        let resolver = resolver.as_ref().map_err(|why| Lookup::Failed(format!("{name}: {why}")))?;
        match resolver.lookup(name, kind).await {
            Ok(found) => {
                let addresses = found.answers().iter().filter_map(|record| match &record.data {
                    RData::A(address) => Some(IpAddr::V4(address.0)),
                    RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                    _ => None,
                });
                let ttl = found.valid_until().saturating_duration_since(Instant::now());
                Ok(Answer { addresses: addresses.collect(), ttl })
            }
            Err(error) if error.is_no_records_found() => Err(Lookup::Empty),
            Err(error) => Err(Lookup::Failed(format!("{name}: {error}"))),
        }
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, family: DnsFamily) -> Looking<'a> {
        Box::pin(async move {
            let none = || Err(Lookup::Empty);
            let (v4, v6) = match family {
                DnsFamily::V4Only => (self.ask(name, RecordType::A).await, none()),
                DnsFamily::V6Only => (none(), self.ask(name, RecordType::AAAA).await),
                _ => tokio::join!(self.ask(name, RecordType::A), self.ask(name, RecordType::AAAA)),
            };
            merge(family, v4, v6)
        })
    }
}

/// One answer of two. One that failed does not hide the other, but two empty ones are needed for "none".
fn merge(
    family: DnsFamily,
    v4: Result<Answer, Lookup>,
    v6: Result<Answer, Lookup>,
) -> Result<Answer, Lookup> {
    let mut ttl = Duration::MAX;
    let mut failed = None;
    let mut addresses = |answer: Result<Answer, Lookup>| match answer {
        Ok(answer) => {
            ttl = ttl.min(answer.ttl);
            answer.addresses
        }
        Err(Lookup::Empty) => Vec::new(),
        Err(why) => {
            failed = Some(why);
            Vec::new()
        }
    };
    let (v4, v6) = (addresses(v4), addresses(v6));
    let chosen = choose(family, v4, v6);
    match failed {
        _ if !chosen.is_empty() => Ok(Answer { addresses: chosen, ttl }),
        Some(why) => Err(why),
        None => Err(Lookup::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_chosen_and_failures_do_not_hide_answers() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let answer = |text: &str| Ok(Answer { addresses: vec![ip(text)], ttl: Duration::from_secs(9) });
        let (v4, v6) = ("10.0.0.1", "fd00::1");
        let pick = |family| merge(family, answer(v4), answer(v6)).unwrap().addresses;
        assert_eq!(pick(DnsFamily::Auto), [ip(v6)]);
        assert_eq!(pick(DnsFamily::V4Preferred), [ip(v4)]);
        assert_eq!(pick(DnsFamily::All), [ip(v6), ip(v4)]);
        let broken = || Err(Lookup::Failed("x".into()));
        assert_eq!(merge(DnsFamily::Auto, answer(v4), broken()).unwrap().addresses, [ip(v4)]);
        assert_eq!(merge(DnsFamily::Auto, Err(Lookup::Empty), broken()), broken());
        assert_eq!(merge(DnsFamily::Auto, Err(Lookup::Empty), Err(Lookup::Empty)), Err(Lookup::Empty));
    }
}
