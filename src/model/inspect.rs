//! Listener filters that look at a connection's first bytes, before its filter chain is known.

use serde::Serialize;
use std::time::Duration;

/// Which of them a listener has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspectors {
    /// `tls_inspector`. `None`: not configured; it runs all the same where chains ask for what it finds.
    pub tls: Option<Inspector>,
    /// `http_inspector`.
    pub http: Option<Inspector>,
    /// `original_dst`: redirected connections count as made to where their clients meant to go.
    pub original: Option<Inspector>,
    /// `original_src`: connections to hosts come from where their clients are.
    pub source: Option<OriginalSource>,
    /// How long the first bytes are waited for; `None`: until they come. Default 15 s.
    pub timeout: Option<Duration>,
    /// When that is over the connection goes on with what is known of it.
    pub continue_on_timeout: bool,
}

impl Default for Inspectors {
    fn default() -> Self {
        Inspectors {
            tls: None,
            http: None,
            original: None,
            source: None,
            timeout: Some(Duration::from_secs(15)),
            continue_on_timeout: false,
        }
    }
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Inspector {
    /// Connections it leaves alone.
    pub disabled: Option<Predicate>,
}

/// See [`Inspectors::source`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OriginalSource {
    /// Which connections.
    pub inspector: Inspector,
    /// `SO_MARK` of connections to hosts; 0: none.
    pub mark: u32,
}

/// What a listener filter is switched off by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Predicate {
    /// Every connection.
    Any,
    /// Destination ports, the last one excluded.
    Ports {
        start: u32,
        end: u32,
    },
    Not(Box<Predicate>),
    Or(Vec<Predicate>),
    And(Vec<Predicate>),
}

impl Inspector {
    /// Whether it looks at connections to `port`; `None` on Unix sockets.
    pub fn applies(&self, port: Option<u16>) -> bool {
        !self.disabled.as_ref().is_some_and(|predicate| predicate.matches(port))
    }
}

impl Predicate {
    fn matches(&self, port: Option<u16>) -> bool {
        match self {
            Predicate::Any => true,
            Predicate::Ports { start, end } => {
                port.is_some_and(|port| (*start..*end).contains(&u32::from(port)))
            }
            Predicate::Not(inner) => !inner.matches(port),
            Predicate::Or(list) => list.iter().any(|inner| inner.matches(port)),
            Predicate::And(list) => list.iter().all(|inner| inner.matches(port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicates_combine() {
        let ports = |start, end| Predicate::Ports { start, end };
        let off = |disabled| Inspector { disabled: Some(disabled) };
        let both = off(Predicate::Or(vec![ports(80, 81), ports(443, 444)]));
        assert!(!both.applies(Some(80)) && both.applies(Some(81)) && both.applies(None));
        let only = off(Predicate::Not(Box::new(Predicate::And(vec![ports(1, 100), ports(50, 60)]))));
        assert!(only.applies(Some(55)) && !only.applies(Some(60)));
        assert!(Inspector::default().applies(Some(1)) && !off(Predicate::Any).applies(None));
    }
}
