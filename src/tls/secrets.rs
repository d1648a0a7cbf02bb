//! Every certificate and trust bundle in use, wherever it comes from.
//!
//! A [`Cell`] holds one of them and its version: contexts keep the cell and look at the version when a handshake
//! begins, so a rotation reaches them without a new snapshot and touches no open connection. Secrets by discovery
//! are asked for while a context holds their cell; files are read when a cell is made and again when they change.
//! What cannot be read is told and leaves the last good one in place.

mod cell;
mod read;

use super::certs::CertInfo;
use super::{Client, Server};
use crate::model::{Certificate, Data, DownstreamTls, SecretRef, UpstreamTls, Validation};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;
use tokio::sync::watch;

pub use cell::Hold;
pub use read::Material;

pub(super) use cell::Cell;
use cell::lock;
use read::Spec;

/// What kind of secret a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A certificate and its key.
    Certificate,
    /// What peers are checked against.
    Validation,
}

/// A secret that some context wants by discovery.
pub type Need = (SecretRef, Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Secret(Need),
    Local(String),
}

#[derive(Default)]
struct Tables {
    cells: HashMap<Key, Weak<Cell>>,
    servers: HashMap<String, Weak<Server>>,
    clients: HashMap<String, Weak<Client>>,
    /// Tables are cleared of what is gone when they have doubled.
    clear_at: usize,
}

/// All cells and contexts of the process.
pub struct Secrets {
    tables: Mutex<Tables>,
    changes: watch::Sender<u64>,
    trust: AtomicU64,
}

impl Default for Secrets {
    fn default() -> Self {
        Secrets { tables: Mutex::default(), changes: watch::Sender::new(0), trust: AtomicU64::new(0) }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.cells()).finish()
    }
}

/// A secret as the admin shows it.
#[derive(Clone, Debug)]
pub struct SecretStatus {
    /// Its name, or what stands for it.
    pub name: String,
    /// By discovery, and of what kind.
    pub secret: Option<Need>,
    /// Version as the server told.
    pub version: String,
    /// When it last changed.
    pub updated: Option<SystemTime>,
    /// What was wrong with the last one that came.
    pub error: Option<String>,
    /// What it holds.
    pub state: SecretState,
    /// A listener towards the workload's clients needs it.
    pub inbound: bool,
}

/// What a secret holds, as far as people may see.
#[derive(Clone, Debug)]
pub enum SecretState {
    /// Nothing.
    Missing,
    /// A certificate chain; its PEM is public, its key is not here.
    Certificate { path: String, pem: Vec<u8>, infos: Vec<CertInfo> },
    /// CA certificates.
    Trust { path: String, pem: Vec<u8>, infos: Vec<CertInfo> },
}

impl Secrets {
    /// The context of a filter chain. Equal models share one, and with it the keys of session tickets.
    /// `inbound`: the process is not live before its secrets have come.
    pub fn server(&self, model: &Arc<DownstreamTls>, inbound: bool) -> Arc<Server> {
        let key = format!("{model:?}");
        let found = lock(&self.tables).servers.get(&key).and_then(Weak::upgrade);
        let server = found.unwrap_or_else(|| {
            let new = Arc::new(Server::new(model.clone(), self));
            let mut tables = lock(&self.tables);
            tables.servers.insert(key, Arc::downgrade(&new));
            tables.tidy();
            new
        });
        if inbound {
            server.cells().for_each(|cell| cell.inbound.store(true, Relaxed));
        }
        server
    }

    /// The context of a cluster's transport socket.
    pub fn client(&self, model: &Arc<UpstreamTls>) -> Arc<Client> {
        let key = format!("{model:?}");
        if let Some(client) = lock(&self.tables).clients.get(&key).and_then(Weak::upgrade) {
            return client;
        }
        let new = Arc::new(Client::new(model.clone(), self));
        let mut tables = lock(&self.tables);
        tables.clients.insert(key, Arc::downgrade(&new));
        tables.tidy();
        new
    }

    /// The cell of a secret by discovery.
    pub(super) fn secret(&self, secret: &SecretRef, kind: Kind) -> Arc<Cell> {
        let need = (secret.clone(), kind);
        self.cell(Key::Secret(need.clone()), || Cell::empty(secret.name.clone(), Some(need)))
    }

    /// The cell of a certificate that is written or in files.
    pub(super) fn certificate(&self, certificate: &Certificate) -> Arc<Cell> {
        self.local("certificate", Spec::Certificate(certificate.clone()), &certificate.chain)
    }

    /// The cell of the CA certificates of `validation`.
    pub(super) fn validation(&self, validation: &Validation) -> Arc<Cell> {
        let inline = Data::Inline(crate::model::Hidden::new(b""));
        let place = validation.roots.as_ref().or(validation.crl.as_ref()).unwrap_or(&inline);
        self.local("validation context", Spec::Validation(validation.clone()), place)
    }

    fn local(&self, what: &str, spec: Spec, data: &Data) -> Arc<Cell> {
        self.cell(Key::Local(format!("{spec:?}")), || {
            let label = match data {
                Data::Inline(_) => format!("inline {what}"),
                Data::File(path) => path.display().to_string(),
            };
            let cell = Cell::empty(label, None);
            if let Err(fault) = cell.put(spec, "") {
                tracing::error!("{}: {fault}", cell.label);
            }
            cell
        })
    }

    fn cell(&self, key: Key, make: impl FnOnce() -> Cell) -> Arc<Cell> {
        if let Some(cell) = lock(&self.tables).cells.get(&key).and_then(Weak::upgrade) {
            return cell;
        }
        let new = Arc::new(make());
        let mut tables = lock(&self.tables);
        if let Some(cell) = tables.cells.get(&key).and_then(Weak::upgrade) {
            return cell;
        }
        tables.cells.insert(key, Arc::downgrade(&new));
        tables.tidy();
        drop(tables);
        self.changed();
        new
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// Tells when secrets are wanted, or have come.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Those that some context keeps.
    fn cells(&self) -> Vec<Arc<Cell>> {
        let mut cells: Vec<_> = lock(&self.tables).cells.values().filter_map(Weak::upgrade).collect();
        cells.retain(|cell| cell.is_wanted(1));
        cells.sort_by(|a, b| a.label.cmp(&b.label));
        cells
    }

    /// The secrets wanted by discovery, sorted.
    pub fn needs(&self) -> Vec<Need> {
        let mut needs: Vec<_> = self.cells().iter().filter_map(|cell| cell.secret.clone()).collect();
        needs.sort();
        needs
    }

    /// Keeps the cell of `need`; `None` when it is gone.
    pub fn hold(&self, need: &Need) -> Option<Hold> {
        let cell = self.find(need)?;
        cell.holds.fetch_add(1, Relaxed);
        Some(Hold(cell))
    }

    /// How many secrets that inbound listeners need have not come.
    pub fn missing_inbound(&self) -> usize {
        let missing = |cell: &&Arc<Cell>| cell.inbound.load(Relaxed) && cell.material.load().is_none();
        self.cells().iter().filter(missing).count()
    }

    fn find(&self, need: &Need) -> Option<Arc<Cell>> {
        lock(&self.tables).cells.get(&Key::Secret(need.clone())).and_then(Weak::upgrade)
    }

    /// A certificate came by discovery. Nothing happens if nobody wants it any more.
    ///
    /// # Errors
    /// What is wrong with it; the last good one stays.
    pub fn put_certificate(
        &self,
        secret: &SecretRef,
        certificate: Certificate,
        version: &str,
    ) -> Result<(), String> {
        self.put(&(secret.clone(), Kind::Certificate), Spec::Certificate(certificate), version)
    }

    /// A validation context came by discovery.
    ///
    /// # Errors
    /// As [`Secrets::put_certificate`].
    pub fn put_validation(
        &self,
        secret: &SecretRef,
        validation: Validation,
        version: &str,
    ) -> Result<(), String> {
        self.put(&(secret.clone(), Kind::Validation), Spec::Validation(validation), version)
    }

    fn put(&self, need: &Need, spec: Spec, version: &str) -> Result<(), String> {
        let Some(cell) = self.find(need) else { return Ok(()) };
        let new = cell.put(spec, version).map_err(|fault| fault.to_string())?;
        if new {
            self.trust.fetch_add(u64::from(need.1 == Kind::Validation), Relaxed);
            self.changed();
        }
        Ok(())
    }

    /// Goes up whenever what peers are checked against changes.
    pub fn trust_version(&self) -> u64 {
        self.trust.load(Relaxed)
    }

    /// Reads files again that changed. Returns whether there are any files to look at.
    pub fn refresh_files(&self) -> bool {
        let mut any = false;
        let mut new = false;
        for cell in self.cells() {
            any |= !lock(&cell.inner).stamps.is_empty();
            let read = cell.refresh();
            let is_trust = matches!(lock(&cell.inner).spec, Some(Spec::Validation(_)));
            self.trust.fetch_add(u64::from(read && is_trust), Relaxed);
            new |= read;
        }
        if new {
            self.changed();
        }
        any
    }

    /// Everything in use, for the admin.
    pub fn status(&self) -> Vec<SecretStatus> {
        self.cells().iter().map(|cell| status(cell)).collect()
    }
}

impl Tables {
    fn tidy(&mut self) {
        let size = self.cells.len() + self.servers.len() + self.clients.len();
        if size >= self.clear_at {
            self.cells.retain(|_, cell| cell.strong_count() > 0);
            self.servers.retain(|_, server| server.strong_count() > 0);
            self.clients.retain(|_, client| client.strong_count() > 0);
            let left = self.cells.len() + self.servers.len() + self.clients.len();
            self.clear_at = (left * 2).max(64);
        }
    }
}

fn status(cell: &Cell) -> SecretStatus {
    let inner = lock(&cell.inner);
    let public = |data: &Data| match data {
        Data::Inline(text) => ("<inline>".to_owned(), text.bytes().to_vec()),
        Data::File(path) => (path.display().to_string(), std::fs::read(path).unwrap_or_default()),
    };
    let material = cell.material.load();
    let state = match (material.as_deref(), &inner.spec) {
        (Some(Material::Identity(identity)), Some(Spec::Certificate(certificate))) => {
            let (path, pem) = public(&certificate.chain);
            SecretState::Certificate { path, pem, infos: identity.infos.clone() }
        }
        (Some(Material::Trust(trust, _)), Some(Spec::Validation(validation))) => {
            let (path, pem) = validation.roots.as_ref().map(public).unwrap_or_default();
            let infos = trust.as_ref().map(|trust| trust.infos.clone()).unwrap_or_default();
            SecretState::Trust { path, pem, infos }
        }
        _ => SecretState::Missing,
    };
    SecretStatus {
        name: cell.label.clone(),
        secret: cell.secret.clone(),
        version: inner.served.clone(),
        updated: inner.updated,
        error: inner.error.clone(),
        state,
        inbound: cell.inbound.load(Relaxed),
    }
}
