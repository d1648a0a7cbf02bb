//! Every certificate and trust bundle in use, wherever it comes from.
//!
//! A [`Cell`] holds one of them and its version: contexts keep the cell and look at the version when a handshake
//! begins, so a rotation reaches them without a new snapshot and touches no open connection. Secrets by discovery
//! are asked for while a context holds their cell; files are read when a cell is made and again when they change.
//! What cannot be read is told and leaves the last good one in place.

use super::certs::{CertInfo, Identity, Trust};
use super::pem::PemError;
use super::{Client, Server};
use crate::model::{Certificate, Data, DownstreamTls, SecretRef, UpstreamTls, Validation};
use arc_swap::ArcSwapOption;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;
use tokio::sync::watch;

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

/// What a cell holds.
#[derive(Clone)]
pub enum Material {
    /// Ours.
    Identity(Arc<Identity>),
    /// The peers': CA certificates if there are any, and what else is asked of a certificate.
    Trust(Option<Arc<Trust>>, Arc<Validation>),
}

/// Where a cell's content comes from.
#[derive(Clone, Debug, PartialEq)]
enum Spec {
    Certificate(Certificate),
    Validation(Validation),
}

/// One certificate or trust bundle.
pub(super) struct Cell {
    label: String,
    secret: Option<Need>,
    inner: Mutex<Inner>,
    material: ArcSwapOption<Material>,
    version: AtomicU64,
    /// A listener towards the workload's clients needs it.
    inbound: AtomicBool,
    /// How many [`Hold`]s keep it.
    holds: AtomicUsize,
}

/// Keeps a cell, and what came for it, while its stream is open: contexts come and go between two looks at what is
/// wanted, and a server sends a secret to a stream only once.
#[derive(Debug)]
pub struct Hold(Arc<Cell>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Relaxed);
    }
}

#[derive(Default)]
struct Inner {
    spec: Option<Spec>,
    stamps: Vec<(PathBuf, Stamp)>,
    served: String,
    updated: Option<SystemTime>,
    error: Option<String>,
}

/// What tells that a file changed: time of change, length, inode.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len(), data.ino()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text could not be had.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("{0}: {1}")]
    Pem(String, PemError),
}

fn bytes(data: &Data) -> Result<Vec<u8>, Fault> {
    match data {
        Data::Inline(text) => Ok(text.bytes().to_vec()),
        Data::File(path) => std::fs::read(path).map_err(|error| Fault::File { path: path.clone(), error }),
    }
}

fn place(field: &str, data: &Data) -> String {
    match data {
        Data::Inline(_) => field.to_owned(),
        Data::File(path) => format!("{field} {}", path.display()),
    }
}

fn read(spec: &Spec) -> Result<Material, Fault> {
    match spec {
        Spec::Certificate(certificate) => {
            let (chain, key) = (bytes(&certificate.chain)?, bytes(&certificate.key)?);
            let read = Identity::read(&chain, &key).map_err(|error| {
                let ours = match &error {
                    PemError::Key(_) | PemError::NoKey | PemError::Encrypted => {
                        place("private_key", &certificate.key)
                    }
                    _ => place("certificate_chain", &certificate.chain),
                };
                Fault::Pem(ours, error)
            })?;
            Ok(Material::Identity(Arc::new(read)))
        }
        Spec::Validation(validation) => {
            let crl = validation.crl.as_ref().map(bytes).transpose()?;
            let trust = match &validation.roots {
                Some(data) => Some(
                    Trust::read(&bytes(data)?, crl.as_deref())
                        .map_err(|error| Fault::Pem(place("trusted_ca", data), error))?,
                ),
                None if validation.system_roots => Some(
                    Trust::system(crl.as_deref())
                        .map_err(|error| Fault::Pem("system_root_certs".to_owned(), error))?,
                ),
                None => None,
            };
            Ok(Material::Trust(trust.map(Arc::new), Arc::new(validation.clone())))
        }
    }
}

fn files(spec: &Spec) -> Vec<&Path> {
    let data = match spec {
        Spec::Certificate(certificate) => [Some(&certificate.chain), Some(&certificate.key)],
        Spec::Validation(validation) => [validation.roots.as_ref(), validation.crl.as_ref()],
    };
    let path = |data: &'_ Data| match data {
        Data::File(_) => true,
        Data::Inline(_) => false,
    };
    let all = data.into_iter().flatten().filter(|data| path(data));
    all.filter_map(|data| if let Data::File(path) = data { Some(path.as_path()) } else { None }).collect()
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl Cell {
    fn empty(label: String, secret: Option<Need>) -> Cell {
        Cell {
            label,
            secret,
            inner: Mutex::default(),
            material: ArcSwapOption::empty(),
            version: AtomicU64::new(0),
            inbound: AtomicBool::new(false),
            holds: AtomicUsize::new(0),
        }
    }

    /// Whether anything but holds keeps it. `own`: how many references the caller has.
    fn is_wanted(self: &Arc<Cell>, own: usize) -> bool {
        Arc::strong_count(self) > own + self.holds.load(Relaxed)
    }

    /// Goes up with every new content.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// What it holds; `None`: nothing has come, or nothing that could be read.
    pub(super) fn material(&self) -> Option<Arc<Material>> {
        self.material.load_full()
    }

    /// Whether it comes by discovery.
    pub(super) fn is_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// What people call it.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    fn put(&self, spec: Spec, served: &str) -> Result<bool, Fault> {
        // Before the files are read: what changes in between is seen at the next look.
        let stamps = files(&spec).into_iter().map(|path| (path.to_owned(), stamp(path))).collect();
        let result = read(&spec);
        let mut inner = lock(&self.inner);
        match result {
            Ok(material) => {
                let same = inner.spec.as_ref() == Some(&spec) && inner.stamps == stamps;
                inner.stamps = stamps;
                inner.spec = Some(spec);
                inner.error = None;
                served.clone_into(&mut inner.served);
                if same && self.material.load().is_some() {
                    return Ok(false);
                }
                inner.updated = Some(SystemTime::now());
                self.material.store(Some(Arc::new(material)));
                self.version.fetch_add(1, Relaxed);
                Ok(true)
            }
            Err(fault) => {
                inner.error = Some(fault.to_string());
                // A file may become good later; a secret that is no good is not kept.
                if self.secret.is_none() {
                    inner.spec = Some(spec);
                    inner.stamps = stamps;
                }
                Err(fault)
            }
        }
    }

    /// Reads its files again if one changed. Whether the content is new.
    fn refresh(&self) -> bool {
        let (spec, served) = {
            let inner = lock(&self.inner);
            let Some(spec) = &inner.spec else { return false };
            let changed = inner.stamps.iter().any(|(path, seen)| stamp(path) != *seen);
            // A missing file is no reason to look at what is left.
            if !changed {
                return false;
            }
            (spec.clone(), inner.served.clone())
        };
        match self.put(spec, &served) {
            Ok(new) => {
                tracing::info!("{}: read again", self.label);
                new
            }
            Err(fault) => {
                let stamps: Vec<_> = {
                    let inner = lock(&self.inner);
                    inner.stamps.iter().map(|(path, _)| (path.clone(), stamp(path))).collect()
                };
                lock(&self.inner).stamps = stamps;
                tracing::warn!("{}: kept as it was: {fault}", self.label);
                false
            }
        }
    }
}

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
