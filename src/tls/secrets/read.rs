//! What certificates and trust bundles are made of: texts given, and files.

use crate::model::{Certificate, Data, Validation};
use crate::tls::certs::{Identity, Trust};
use crate::tls::pem::PemError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

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
pub(super) enum Spec {
    Certificate(Certificate),
    Validation(Validation),
}

/// What tells that a file changed: time of change, length, inode.
pub(super) type Stamp = Option<(SystemTime, u64, u64)>;

pub(super) fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len(), data.ino()))
}

/// A text could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
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

pub(super) fn read(spec: &Spec) -> Result<Material, Fault> {
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

pub(super) fn files(spec: &Spec) -> Vec<&Path> {
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
