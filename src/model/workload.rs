//! Who a proxy of a mesh serves: what it tells its peers and what stands in its metrics.
//!
//! Peers exchange it as a `google.protobuf.Struct`, keys sorted, over HTTP in headers and over TCP in front of
//! the stream.

use crate::util::wire;
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
    Text(&'a str),
    Map(&'a [u8]),
}

/// Calls `each` with the texts and structs of an encoded struct.
fn entries<'a>(bytes: &'a [u8], each: &mut dyn FnMut(&'a str, Entry<'a>)) -> bool {
    wire::each(bytes, |number, entry| {
        let (mut key, mut value) = (None, None);
        if number == 1 {
            wire::each(entry, |number, part| match number {
                1 => key = std::str::from_utf8(part).ok(),
                2 => value = Some(part),
                _ => {}
            });
        }
        let (Some(key), Some(value)) = (key, value) else { return };
        wire::each(value, |number, part| match number {
            3 => std::str::from_utf8(part).into_iter().for_each(|text| each(key, Entry::Text(text))),
            5 => each(key, Entry::Map(part)),
            _ => {}
        });
    })
}

/// Appends an entry of a struct; `kind`: 3 a text, 5 a struct.
fn put(key: &str, kind: u32, value: &[u8], out: &mut Vec<u8>) {
    let mut inner = Vec::with_capacity(value.len() + 4);
    wire::put(kind, value, &mut inner);
    let mut entry = Vec::with_capacity(key.len() + inner.len() + 8);
    wire::put(1, key.as_bytes(), &mut entry);
    wire::put(2, &inner, &mut entry);
    wire::put(1, &entry, out);
}

impl Workload {
    /// Reads an encoded struct; `None`: it is none.
    pub fn decode(bytes: &[u8]) -> Option<Workload> {
        let mut read = Workload::default();
        let mut owner = "";
        let whole = entries(bytes, &mut |key, entry| match entry {
            Entry::Text(text) => match key {
                "OWNER" => owner = text,
                _ => read.set(key, text),
            },
            Entry::Map(labels) if key == "LABELS" => {
                entries(labels, &mut |key, entry| {
                    if let Entry::Text(text) = entry {
                        read.label(key, text);
                    }
                });
            }
            Entry::Map(_) => {}
        });
        read.owned_by(owner);
        whole.then_some(read)
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
        let mut marked: BTreeMap<&str, &str> = BTreeMap::new();
        let own = [
            (CANONICAL_NAME, &self.service),
            (CANONICAL_REVISION, &self.revision),
            ("app", &self.app),
            ("version", &self.version),
        ];
        marked
            .extend(own.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (*key, text.as_str())));
        let told = self.labels.iter().filter(|(key, _)| labels.contains(key));
        marked.extend(told.map(|(key, text)| (key.as_str(), text.as_str())));
        let mut map = Vec::new();
        marked.into_iter().for_each(|(key, text)| put(key, 3, text.as_bytes(), &mut map));
        let owner = match self.kind.as_str() {
            "" => String::new(),
            kind => format!("{OWNER}{}/{kind}s/{}", self.namespace, self.name),
        };
        let mut out = Vec::new();
        for (key, text) in [
            ("AVAILABILITY_ZONE", &self.zone),
            ("CLUSTER_ID", &self.cluster),
            ("IDENTITY", &self.identity),
            ("LABELS", &String::new()),
            ("NAME", &self.instance),
            ("NAMESPACE", &self.namespace),
            ("OWNER", &owner),
            ("REGION", &self.region),
            ("WORKLOAD_NAME", &self.name),
        ] {
            match key {
                "LABELS" => put(key, 5, &map, &mut out),
                _ if !text.is_empty() => put(key, 3, text.as_bytes(), &mut out),
                _ => {}
            }
        }
        out
    }
}

impl Node {
    /// What stands in front of a TCP stream: magic, length, and an `Any` with a struct of the workload and the
    /// node's id.
    pub fn exchange_frame(&self, labels: &[String]) -> Vec<u8> {
        // Where the machine is, is told over HTTP only.
        let told = Workload { region: String::new(), zone: String::new(), ..self.workload.clone() };
        let mut data = Vec::new();
        put(METADATA, 5, &told.encode(labels), &mut data);
        if !self.id.is_empty() {
            put(METADATA_ID, 3, self.id.as_bytes(), &mut data);
        }
        let mut any = Vec::new();
        wire::put(1, STRUCT_URL, &mut any);
        wire::put(2, &data, &mut any);
        let mut frame = EXCHANGE_MAGIC.to_be_bytes().to_vec();
        frame.extend_from_slice(&u32::try_from(any.len()).unwrap_or_default().to_be_bytes());
        frame.extend_from_slice(&any);
        frame
    }

    /// The workload in the `Any` of an exchange; `None`: there is none.
    pub fn read_exchange(any: &[u8]) -> Option<Workload> {
        let (mut data, mut read) = (None, None);
        wire::each(any, |number, part| {
            if number == 2 {
                data = Some(part);
            }
        });
        entries(data?, &mut |key, entry| {
            if let (METADATA, Entry::Map(map)) = (key, entry) {
                read = Workload::decode(map);
            }
        });
        read
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
    fn a_struct_is_protobufs() {
        use prost::Message;
        let read = prost_types::Struct::decode(workload().encode(&[]).as_slice()).unwrap();
        let text = |key: &str| match &read.fields[key].kind {
            Some(prost_types::value::Kind::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((text("NAMESPACE").as_str(), text("WORKLOAD_NAME").as_str()), ("demo", "web-v1"));
        assert_eq!(text("OWNER"), "kubernetes://apis/apps/v1/namespaces/demo/deployments/web-v1");
        let Some(prost_types::value::Kind::StructValue(labels)) = &read.fields["LABELS"].kind else {
            panic!("labels")
        };
        assert_eq!(labels.fields.len(), 3);
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
