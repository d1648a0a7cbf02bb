//! What a ClientHello asks for, read before it is answered (RFC 8446 4.1.2, RFC 6066 3, RFC 7301 3.1).

/// Largest ClientHello that is waited for. Envoy's limit too.
const MOST: usize = 16 * 1024;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// The parts that decide where a connection goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Lower-cased.
    pub server_name: Option<String>,
    /// In the client's order.
    pub alpn: Vec<String>,
}

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Too few of them.
    More,
    /// No TLS.
    NotTls,
    /// A complete ClientHello.
    Tls(Hello),
}

/// Reads the first bytes of a connection.
pub fn client_hello(bytes: &[u8]) -> Heard {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // Whatever there is of a record's head must fit.
        let is_tls = match rest {
            [] => true,
            [kind] => *kind == HANDSHAKE,
            [kind, major, ..] => *kind == HANDSHAKE && *major == 3,
        };
        if !is_tls {
            return Heard::NotTls;
        }
        let [_, _, _, high, low, tail @ ..] = rest else { return Heard::More };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > MOST + 256 {
            return Heard::NotTls;
        }
        message.extend_from_slice(tail.get(..length).unwrap_or(tail));
        match complete(&message) {
            Some(Some(body)) => return read(body).map_or(Heard::NotTls, Heard::Tls),
            Some(None) => {}
            None => return Heard::NotTls,
        }
        let Some(next) = tail.get(length..) else { return Heard::More };
        rest = next;
    }
}

/// The body of the handshake message, if it is all there. `None`: it is no ClientHello.
fn complete(message: &[u8]) -> Option<Option<&[u8]>> {
    match message {
        [] => Some(None),
        [kind, ..] if *kind != CLIENT_HELLO => None,
        [_, a, b, c, body @ ..] => {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > MOST { None } else { Some(body.get(..length)) }
        }
        _ => Some(None),
    }
}

fn read(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader(body);
    // Version and random.
    reader.take(2 + 32)?;
    let _session = reader.list8()?;
    let _ciphers = reader.list16()?;
    let _compressions = reader.list8()?;
    let mut hello = Hello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.list16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.list16()?;
        match kind {
            SERVER_NAME => hello.server_name = host_name(content)?,
            ALPN => hello.alpn = protocols(content)?,
            _ => {}
        }
    }
    Some(hello)
}

fn host_name(content: &[u8]) -> Option<Option<String>> {
    let mut names = Reader(Reader(content).list16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?;
        let name = names.list16()?;
        if kind == [0] {
            return Some(std::str::from_utf8(name).ok().map(str::to_ascii_lowercase));
        }
    }
    Some(None)
}

fn protocols(content: &[u8]) -> Option<Vec<String>> {
    let mut list = Reader(Reader(content).list16()?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        found.push(String::from_utf8_lossy(list.list8()?).into_owned());
    }
    Some(found)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn list8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?.first().copied()?;
        self.take(usize::from(length))
    }

    fn list16(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}
