use super::*;
use std::sync::{Arc, Mutex};

/// Collects the lines of one thread.
struct Probe(Arc<Mutex<Vec<String>>>, Form);

impl<S: Subscriber> Layer<S> for Probe {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        level::enabled(metadata)
    }
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_micros(1_795_191_757_901_234);
        self.0.lock().unwrap().push(self.1.line(event.metadata(), time, &message.0));
    }
}

fn lines(form: Form, log: impl FnOnce()) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let subscriber = tracing_subscriber::registry().with(Probe(lines.clone(), form));
    tracing::subscriber::with_default(subscriber, log);
    let lines = lines.lock().unwrap();
    lines.clone()
}

#[test]
fn a_line_in_each_form() {
    let _levels = TESTING.blocking_lock();
    let log = || tracing::warn!(target: "mizzen::xds::client", version = "7", "stream\nclosed");
    let [line] = lines(Form::Mosn, log).try_into().unwrap();
    assert_eq!(line, "2026-11-20 16:22:37,901 [WARN] stream\\nclosed version=7\n");
    let form = Form::Envoy("%Y-%m-%dT%T.%fZ\t%l\tenvoy %n\t%v 100%% %q".into());
    let [line] = lines(form, log).try_into().unwrap();
    assert_eq!(
        line,
        "2026-11-20T16:22:37.901234Z\twarning\tenvoy config\tstream\\nclosed version=7 100% %q\n"
    );
    let [line] = lines(Form::default(), log).try_into().unwrap();
    assert!(line.starts_with("[2026-11-20 16:22:37.901]["), "{line}");
    assert!(line.contains("][warning][config] ["), "{line}");
}

#[test]
fn levels_change_by_component() {
    let _levels = TESTING.blocking_lock();
    let log = || {
        tracing::debug!(target: "mizzen::filter::rbac", "seen");
        tracing::debug!(target: "mizzen::filter", "not seen");
    };
    assert!(lines(Form::Mosn, log).is_empty());
    set_level("rbac", Level::Debug).unwrap();
    let seen = lines(Form::Mosn, log);
    assert!(levels().contains(&("rbac", Level::Debug)));
    set_level("rbac", Level::Info).unwrap();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(set_level("nonesuch", Level::Debug).is_err());
}

#[test]
fn words_in_both_dialects_are_levels() {
    assert_eq!("WARN".parse::<Level>().unwrap(), Level::Warning);
    assert_eq!("critical".parse::<Level>().unwrap(), Level::Critical);
    assert!("loud".parse::<Level>().is_err());
}

#[test]
fn targets_find_their_component() {
    assert_eq!(level::component_name("mizzen::stream::rpc::driver"), "rpc");
    assert_eq!(level::component_name("mizzen::stream"), "router");
    assert_eq!(level::component_name("mizzen::streams"), "main");
    assert_eq!(level::component_name("h2::codec"), "http2");
    assert_eq!(level::component_name("tower"), "misc");
}
