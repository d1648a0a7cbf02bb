//! Who may ask: the admin has no password, so a page in somebody's browser must not be able to use it.
//!
//! A name rebound to a local address shows in `Host`; a request sent by another site's page shows in `Origin`
//! or `Sec-Fetch-Site`.

use http::{HeaderMap, Version, header};
use std::net::{IpAddr, Ipv6Addr};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// HTTP/1.1 without a Host.
    NoHost,
    /// The Host is a name that is not ours.
    ForeignHost,
    /// Another site's page asks.
    CrossSite,
}

/// Checks a request's headers; `bound_name` is the host name the admin was configured with, if it was one.
pub fn check(headers: &HeaderMap, version: Version, bound_name: Option<&str>) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| Refusal::ForeignHost)?),
        (None, _) => None,
        (Some(_), Some(_)) => return Err(Refusal::ForeignHost),
    };
    match host {
        Some(host) if known(name_of(host), bound_name) => {}
        Some(_) => return Err(Refusal::ForeignHost),
        None if version == Version::HTTP_11 => return Err(Refusal::NoHost),
        None => {}
    }
    let cross = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site");
    if cross {
        return Err(Refusal::CrossSite);
    }
    for origin in headers.get_all(header::ORIGIN) {
        let authority =
            origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, authority)| authority);
        let same = matches!((authority, host), (Some(a), Some(h)) if a.eq_ignore_ascii_case(h));
        if !same {
            return Err(Refusal::CrossSite);
        }
    }
    Ok(())
}

/// The host part of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn known(name: &str, bound_name: Option<&str>) -> bool {
    name.parse::<IpAddr>().is_ok()
        || name.split('%').next().is_some_and(|n| n.parse::<Ipv6Addr>().is_ok())
        || name.eq_ignore_ascii_case("localhost")
        || bound_name.is_some_and(|bound| name.eq_ignore_ascii_case(bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pairs: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        check(&headers, Version::HTTP_11, Some("admin.internal"))
    }

    #[test]
    fn addresses_localhost_and_the_bound_name_pass() {
        for host in [
            "127.0.0.1:15000",
            "10.0.0.1",
            "[::1]:15000",
            "[fe80::1%eth0]",
            "LocalHost:1",
            "admin.internal:2",
        ] {
            assert_eq!(ask(&[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:15000", "", "127.0.0.1.evil.example", "[::1"] {
            assert_eq!(ask(&[("host", host)]), Err(Refusal::ForeignHost), "{host}");
        }
        assert_eq!(ask(&[]), Err(Refusal::NoHost));
        assert_eq!(ask(&[("host", "localhost"), ("host", "localhost")]), Err(Refusal::ForeignHost));
        assert_eq!(check(&HeaderMap::new(), Version::HTTP_10, None), Ok(()));
    }

    #[test]
    fn pages_of_other_sites_do_not() {
        let host = ("host", "localhost:15000");
        assert_eq!(ask(&[host, ("origin", "http://localhost:15000")]), Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:8080", "http://127.0.0.1:15000"] {
            assert_eq!(ask(&[host, ("origin", origin)]), Err(Refusal::CrossSite), "{origin}");
        }
        assert_eq!(ask(&[host, ("sec-fetch-site", "cross-site")]), Err(Refusal::CrossSite));
        assert_eq!(ask(&[host, ("sec-fetch-site", "same-origin")]), Ok(()));
    }
}
