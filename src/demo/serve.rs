//! `mizzen sample control-plane`: a folder of JSON as a control plane, to try pushes by hand.
//!
//! Takes in a folder with one file per proxy, `NODE_ID.json`, a list of resources with `@type`; gives out an
//! ADS server and a line per push and answer. A file that changes is pushed; one that cannot be read is told
//! of and pushes nothing.

use super::control_plane::ControlPlane;
use super::resources::Resources;
use crate::cli::SampleControlPlane;
use anyhow::Context;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How often the folder is read.
const LOOK: Duration = Duration::from_millis(250);

/// Serves until the process ends.
///
/// # Errors
/// The folder or the address cannot be had.
pub fn serve(args: &SampleControlPlane) -> anyhow::Result<ExitCode> {
    let mut folder = Folder { path: args.resources.clone(), texts: BTreeMap::new() };
    let host = args.host.parse().with_context(|| format!("--host {}: expected an IP address", args.host))?;
    let address = SocketAddr::new(host, args.port);
    let changed = folder.changed()?;
    let plane = ControlPlane::start(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("control plane for {} listens on {}", folder.path.display(), plane.address());
    push(&plane, changed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        tokio::join!(follow(&plane, folder), tell(&plane));
    });
    Ok(ExitCode::SUCCESS)
}

/// Pushes what changes in the folder.
async fn follow(plane: &ControlPlane, mut folder: Folder) {
    loop {
        tokio::time::sleep(LOOK).await;
        match folder.changed() {
            Ok(changed) => push(plane, changed),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

fn push(plane: &ControlPlane, changed: Vec<(String, anyhow::Result<Resources>)>) {
    for (node, read) in changed {
        match read {
            Ok(resources) => {
                let version = plane.publish(&node, resources);
                println!("push {version} for {node}");
            }
            Err(error) => eprintln!("{node}.json: {error:#}"),
        }
    }
}

/// Prints who comes, goes and answers.
async fn tell(plane: &ControlPlane) {
    let mut ledger = plane.ledger();
    let mut told = ledger.borrow_and_update().clone();
    while ledger.changed().await.is_ok() {
        let now = ledger.borrow_and_update().clone();
        for (node, standing) in &now {
            let before = told.get(node).cloned().unwrap_or_default();
            if standing.connected != before.connected {
                println!("{node} {}", if standing.connected { "connected" } else { "gone" });
            }
            for nack in standing.nacks.iter().skip(before.nacks.len()) {
                println!("{node} refused {}: {}", nack.kind.label(), nack.text);
            }
            if standing.unanswered == 0 && before.unanswered > 0 {
                println!("{node} has answered everything up to push {}", standing.version);
            }
        }
        told = now;
    }
}

/// The files as last read.
struct Folder {
    path: PathBuf,
    texts: BTreeMap<String, String>,
}

impl Folder {
    /// The proxies whose file is new or differs.
    fn changed(&mut self) -> anyhow::Result<Vec<(String, anyhow::Result<Resources>)>> {
        let mut changed = Vec::new();
        let files = std::fs::read_dir(&self.path).with_context(|| self.path.display().to_string())?;
        for file in files {
            let path = file?.path();
            let Some(node) = node_of(&path) else { continue };
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            if self.texts.get(&node) != Some(&text) {
                changed.push((node.clone(), read(&text)));
                self.texts.insert(node, text);
            }
        }
        Ok(changed)
    }
}

fn node_of(path: &Path) -> Option<String> {
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    path.file_stem().filter(|_| is_json).map(|stem| stem.to_string_lossy().into_owned())
}

fn read(text: &str) -> anyhow::Result<Resources> {
    let resources: Vec<Value> = serde_json::from_str(text).context("expected a list of resources")?;
    Resources::default().with(&resources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::types::ResourceType;

    #[test]
    fn the_shipped_folder_reads_and_only_changes_are_reported() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/ads/resources");
        let mut folder = Folder { path, texts: BTreeMap::new() };
        let changed = folder.changed().unwrap();
        assert_eq!(changed.len(), 2);
        for (node, resources) in changed {
            let resources = resources.unwrap();
            for kind in
                [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route]
            {
                assert_eq!(resources.of(kind).count(), 1, "{node} {kind:?}");
            }
        }
        assert!(folder.changed().unwrap().is_empty());
        assert!(read("{}").unwrap_err().to_string().contains("list"));
    }
}
