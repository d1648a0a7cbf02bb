//! What a client takes, of what there is (RFC 9110, 12.5.3).

/// A coding that could be used.
pub(super) struct Offer {
    pub coding: &'static str,
    /// Taken before others that the client likes as much.
    pub first: bool,
}

/// The coding to use; `None`: the body stays as it is.
pub(super) fn choose(accepts: &[u8], offers: &[Offer]) -> Option<&'static str> {
    let mut wishes = Vec::new();
    for part in accepts.split(|byte| *byte == b',') {
        let mut halves = part.split(|byte| *byte == b';');
        let name = halves.next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        if name.is_empty() {
            continue;
        }
        wishes.push((name, halves.find_map(quality).unwrap_or(1000)));
    }
    let wish = |coding: &str| wishes.iter().position(|(name, _)| name == coding.as_bytes());
    let any = wishes.iter().position(|(name, _)| name == b"*");
    // What is not spoken of is not taken, unless everything is.
    let rank = |offer: &Offer| {
        let at = wish(offer.coding).or(any)?;
        let (_, quality) = wishes.get(at)?;
        // Of equals the preferred one, then the one named first.
        (*quality > 0).then_some((*quality, offer.first, std::cmp::Reverse(at)))
    };
    let mut best: Option<(&Offer, _)> = None;
    for offer in offers {
        let Some(rank) = rank(offer) else { continue };
        if best.as_ref().is_none_or(|(_, held)| rank > *held) {
            best = Some((offer, rank));
        }
    }
    let (offer, (quality, ..)) = best?;
    // A client that likes the body best as it is gets it so.
    let plain = wish("identity").and_then(|at| wishes.get(at)).map_or(0, |(_, quality)| *quality);
    (quality >= plain).then_some(offer.coding)
}

/// `q=0.5` as 500.
fn quality(parameter: &[u8]) -> Option<u16> {
    let parameter = parameter.trim_ascii();
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    let number: f32 = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    (0.0..=1.0).contains(&number).then(|| (number * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_liked_coding_is_chosen() {
        let offers = |first: &str| {
            ["gzip", "br", "zstd"]
                .map(|coding| Offer { coding, first: coding == first })
                .into_iter()
                .collect()
        };
        let choose = |accepts: &str, first: &str| {
            let offers: Vec<Offer> = offers(first);
            super::choose(accepts.as_bytes(), &offers)
        };
        for (accepts, want) in [
            ("", None),
            ("identity", None),
            ("gzip", Some("gzip")),
            ("GZIP;q=0.5, br;q=0.6", Some("br")),
            ("gzip, br", Some("gzip")),
            ("br, gzip", Some("br")),
            ("gzip;q=0", None),
            ("gzip;q=0, *", Some("br")),
            ("*", Some("gzip")),
            ("*;q=0", None),
            ("deflate", None),
            ("identity;q=1, gzip;q=0.2", None),
            ("identity;q=0.5, gzip", Some("gzip")),
            ("gzip;q=7, br;q=nonsense", Some("gzip")),
        ] {
            assert_eq!(choose(accepts, ""), want, "{accepts}");
        }
        assert_eq!(choose("gzip, br", "br"), Some("br"));
        assert_eq!(choose("gzip, br;q=0.9", "br"), Some("gzip"));
    }
}
