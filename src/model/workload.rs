//! Who a proxy of a mesh serves: what it tells its peers and what stands in its metrics.
//!
//! Peers exchange it as a `google.protobuf.Struct`, keys sorted, over HTTP in headers and over TCP in front of
//! the stream.

use crate::util::protobuf::{Malformed, Message, fields};
use std::collections::BTreeMap;

const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
const OWNER: &str = "kubernetes://apis/apps/v1/namespaces/";
/// Keys of what peers exchange over TCP.
const METADATA: &str = "x-envoy-peer-metadata";
const METADATA_ID: &str = "x-envoy-peer-metadata-id";
const STRUCT_URL: &[u8] = b"type.googleapis.com/google.protobuf.Struct";
/// Begins an exchange over TCP; the length of what follows comes behind it, also big endian.
pub const EXCHANGE_MAGIC: u32 = 0x3D23_0467;

/// A workload; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The pod.
    pub instance: String,
    pub namespace: String,
    pub name: String,
    pub cluster: String,
    /// The canonical service and its revision.
    pub service: String,
    pub revision: String,
    pub app: String,
    pub version: String,
    /// `deployment`, `job`, `cronjob` or `pod`.
    pub kind: String,
    pub identity: String,
    pub region: String,
    pub zone: String,
    /// All other labels.
    pub labels: BTreeMap<String, String>,
}

/// This process, from the bootstrap's node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Whom it serves.
    pub workload: Workload,
    /// `ISTIO_VERSION` of its metadata.
    pub version: String,
    /// The cluster it says it is part of.
    pub cluster: String,
    /// Texts of its metadata, by their keys; those within each other are joined by a NUL.
    pub metadata: BTreeMap<String, String>,
}

/// A text in a struct, or one of the structs in it.
enum Entry<'a> {
    Text(String),
    Map(&'a [u8]),
}

/// The texts and structs of an encoded struct.
fn entries(bytes: &[u8]) -> Result<Vec<(String, Entry<'_>)>, Malformed> {
    let mut found = Vec::new();
    for (_, entry) in fields(bytes)?.into_iter().filter(|(number, _)| *number == 1) {
        let parts = fields(entry.bytes())?;
        let part = |wanted: u32| parts.iter().find(|(number, _)| *number == wanted).map(|(_, part)| *part);
        let (Some(key), Some(value)) = (part(1), part(2)) else { continue };
        let read = fields(value.bytes())?.into_iter().find_map(|(kind, value)| match kind {
            3 => Some(Entry::Text(value.text())),
            5 => Some(Entry::Map(value.bytes())),
            _ => None,
        });
        found.extend(read.map(|read| (key.text(), read)));
    }
    Ok(found)
}

/// A text as a value of a struct.
fn text(text: &str) -> Message {
    Message::new().item(3, text.as_bytes())
}

/// A struct as a value of another.
fn map(fields: BTreeMap<&str, Message>) -> Message {
    Message::new().message(5, encoded(fields))
}

/// A struct.
fn encoded(fields: BTreeMap<&str, Message>) -> Message {
    fields.into_iter().fold(Message::new(), |out, (key, value)| {
        out.message(1, Message::new().text(1, key.as_bytes()).message(2, value))
    })
}

impl Workload {
    /// Reads an encoded struct; `None`: it is none.
    pub fn decode(bytes: &[u8]) -> Option<Workload> {
        let (mut read, mut owner) = (Workload::default(), String::new());
        for (key, entry) in entries(bytes).ok()? {
            match entry {
                Entry::Text(text) if key == "OWNER" => owner = text,
                Entry::Text(text) => read.set(&key, &text),
                Entry::Map(labels) if key == "LABELS" => {
                    for (key, entry) in entries(labels).ok()? {
                        if let Entry::Text(text) = entry {
                            read.label(&key, &text);
                        }
                    }
                }
                Entry::Map(_) => {}
            }
        }
        read.owned_by(&owner);
        Some(read)
    }

    /// Takes in a text of a node's metadata.
    pub fn set(&mut self, key: &str, text: &str) {
        let field = match key {
            "NAME" => &mut self.instance,
            "NAMESPACE" => &mut self.namespace,
            "WORKLOAD_NAME" => &mut self.name,
            "CLUSTER_ID" => &mut self.cluster,
            "IDENTITY" => &mut self.identity,
            "REGION" => &mut self.region,
            "AVAILABILITY_ZONE" => &mut self.zone,
            _ => return,
        };
        text.clone_into(field);
    }

    /// Takes in a label. Kubernetes' own names of app and version count before the plain ones.
    pub fn label(&mut self, key: &str, text: &str) {
        let field = match key {
            CANONICAL_NAME => &mut self.service,
            CANONICAL_REVISION => &mut self.revision,
            "app.kubernetes.io/name" => &mut self.app,
            "app.kubernetes.io/version" => &mut self.version,
            "app" if self.app.is_empty() => &mut self.app,
            "version" if self.version.is_empty() => &mut self.version,
            "app" | "version" => return,
            _ => {
                self.labels.insert(key.to_owned(), text.to_owned());
                return;
            }
        };
        text.clone_into(field);
    }

    /// Takes its kind from its owner: `…/deployments/NAME`.
    pub fn owned_by(&mut self, owner: &str) {
        let path = owner.strip_suffix(self.name.as_str()).and_then(|rest| rest.strip_suffix("s/"));
        let kind = path.and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        if ["deployment", "job", "cronjob", "pod"].contains(&kind) {
            kind.clone_into(&mut self.kind);
        }
    }

    /// What an endpoint says of itself: `name;namespace;service;revision;cluster`.
    pub fn of_endpoint(text: &str) -> Option<Workload> {
        let mut parts = text.split(';').map(str::to_owned);
        let (name, namespace) = (parts.next()?, parts.next()?);
        let (service, revision, cluster) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Workload { name, namespace, service, revision, cluster, ..Workload::default() })
    }

    /// The encoded struct with its own labels and, of the others, those of these names.
    pub fn encode(&self, labels: &[String]) -> Vec<u8> {
        encoded(self.fields(labels)).into_bytes()
    }

    fn fields<'a>(&'a self, labels: &[String]) -> BTreeMap<&'a str, Message> {
        let own = [
            (CANONICAL_NAME, &self.service),
            (CANONICAL_REVISION, &self.revision),
            ("app", &self.app),
            ("version", &self.version),
        ];
        let own = own.into_iter().filter(|(_, said)| !said.is_empty());
        let told = self.labels.iter().filter(|(key, _)| labels.contains(key));
        let marked = own.chain(told.map(|(key, said)| (key.as_str(), said)));
        let marked = marked.map(|(key, said)| (key, text(said))).collect();
        let owner = match self.kind.as_str() {
            "" => String::new(),
            kind => format!("{OWNER}{}/{kind}s/{}", self.namespace, self.name),
        };
        let texts = [
            ("AVAILABILITY_ZONE", &self.zone),
            ("CLUSTER_ID", &self.cluster),
            ("IDENTITY", &self.identity),
            ("NAME", &self.instance),
            ("NAMESPACE", &self.namespace),
            ("OWNER", &owner),
            ("REGION", &self.region),
            ("WORKLOAD_NAME", &self.name),
        ];
        let texts = texts.into_iter().filter(|(_, said)| !said.is_empty());
        let mut fields: BTreeMap<_, _> = texts.map(|(key, said)| (key, text(said))).collect();
        fields.insert("LABELS", map(marked));
        fields
    }
}

impl Node {
    /// What stands in front of a TCP stream: magic, length, and an `Any` with a struct of the workload and the
    /// node's id.
    pub fn exchange_frame(&self, labels: &[String]) -> Vec<u8> {
        // Where the machine is, is told over HTTP only.
        let told = Workload { region: String::new(), zone: String::new(), ..self.workload.clone() };
        let mut data = BTreeMap::from([(METADATA, map(told.fields(labels)))]);
        if !self.id.is_empty() {
            data.insert(METADATA_ID, text(&self.id));
        }
        let any = Message::new().item(1, STRUCT_URL).message(2, encoded(data)).into_bytes();
        let mut frame = EXCHANGE_MAGIC.to_be_bytes().to_vec();
        frame.extend_from_slice(&u32::try_from(any.len()).unwrap_or_default().to_be_bytes());
        frame.extend_from_slice(&any);
        frame
    }

    /// The workload in the `Any` of an exchange; `None`: there is none.
    pub fn read_exchange(any: &[u8]) -> Option<Workload> {
        let (_, data) = fields(any).ok()?.into_iter().find(|(number, _)| *number == 2)?;
        let (_, told) = entries(data.bytes()).ok()?.into_iter().find(|(key, _)| key == METADATA)?;
        match told {
            Entry::Map(told) => Workload::decode(told),
            Entry::Text(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        let mut made = Workload { name: "web-v1".into(), ..Workload::default() };
        for (key, text) in [("NAME", "web-1"), ("NAMESPACE", "demo"), ("CLUSTER_ID", "Kubernetes")] {
            made.set(key, text);
        }
        for (key, text) in
            [("app", "web"), ("version", "v1"), (CANONICAL_NAME, "web"), ("role", "front"), ("other", "x")]
        {
            made.label(key, text);
        }
        made.owned_by("kubernetes://apis/apps/v1/namespaces/demo/deployments/web-v1");
        made
    }

    #[test]
    fn what_is_told_is_understood() {
        let made = workload();
        assert_eq!(made.kind, "deployment");
        let read = Workload::decode(&made.encode(&["role".to_owned()])).unwrap();
        let labels = [("role".to_owned(), "front".to_owned())].into();
        assert_eq!(read, Workload { labels, ..made.clone() }, "only the labels that were asked for");
        assert_eq!(Workload::decode(b"\x0a\x05"), None);
        let node = Node { id: "sidecar~1".into(), workload: made.clone(), ..Node::default() };
        let frame = node.exchange_frame(&[]);
        let (head, any) = frame.split_at(8);
        assert_eq!(head[..4], [0x3d, 0x23, 0x04, 0x67]);
        assert_eq!(head[4..], u32::try_from(any.len()).unwrap().to_be_bytes());
        assert_eq!(Node::read_exchange(any).unwrap(), Workload { labels: BTreeMap::new(), ..made });
        assert_eq!(Node::read_exchange(b"nothing"), None);
    }

    #[test]
    fn a_struct_is_as_istios_own_proxies_write_it() {
        let made = Workload { namespace: "n".into(), ..Workload::default() };
        let labels = b"\x0a\x0c\x0a\x06LABELS\x12\x02\x2a\x00";
        let namespace = b"\x0a\x10\x0a\x09NAMESPACE\x12\x03\x1a\x01n";
        assert_eq!(made.encode(&[]), [labels.as_slice(), namespace].concat());
    }

    #[test]
    fn kubernetes_names_of_labels_win() {
        for order in [["app", "app.kubernetes.io/name"], ["app.kubernetes.io/name", "app"]] {
            let mut made = Workload::default();
            order.iter().for_each(|key| made.label(key, key));
            assert_eq!(made.app, "app.kubernetes.io/name");
        }
        let made = Workload::of_endpoint("web-v1;demo;web;v1;Kubernetes").unwrap();
        assert_eq!(
            (made.name.as_str(), made.service.as_str(), made.cluster.as_str()),
            ("web-v1", "web", "Kubernetes")
        );
        assert_eq!(Workload::of_endpoint("web;demo"), None);
    }
}
