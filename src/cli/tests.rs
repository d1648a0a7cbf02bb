use super::*;

fn with_env(args: &[&str], env: &[(&str, &str)]) -> Result<Command, Usage> {
    let args = std::iter::once("mizzen").chain(args.iter().copied()).map(str::to_owned);
    parse(args, &|name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

fn run(args: &[&str]) -> RunArgs {
    match with_env(args, &[]) {
        Ok(Command::Run(args)) => *args,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn error(args: &[&str]) -> String {
    let usage = with_env(args, &[]).unwrap_err();
    assert_eq!(usage.exit, 1, "{args:?}");
    assert_eq!(usage.text.lines().count(), 1, "{}", usage.text);
    usage.text
}

/// What a pilot-agent of Istio 1.3x passes.
const PILOT_AGENT: &[&str] = &[
    "-c",
    "etc/istio/proxy/envoy-rev.json",
    "--drain-time-s",
    "45",
    "--drain-strategy",
    "immediate",
    "--local-address-ip-version",
    "v4",
    "--file-flush-interval-msec",
    "1000",
    "--disable-hot-restart",
    "--allow-unknown-static-fields",
    "-l",
    "warning",
    "--component-log-level",
    "misc:error",
    "--skip-deprecated-logs",
    "--concurrency",
    "2",
];

#[test]
fn takes_what_a_pilot_agent_passes() {
    let args = run(PILOT_AGENT);
    assert_eq!(args.config, Some("etc/istio/proxy/envoy-rev.json".into()));
    assert_eq!(args.drain_time, Duration::from_secs(45));
    assert_eq!(args.drain_strategy, DrainStrategy::Immediate);
    assert_eq!(args.log_level, Some(LogLevel::Warn));
    assert_eq!(args.component_log_levels, [("misc".to_owned(), LogLevel::Error)]);
    assert_eq!(args.concurrency, Some(2));
}

#[test]
fn takes_what_older_and_rarer_agents_pass() {
    let args = run(&[
        "--config-path=e.json",
        "--restart-epoch",
        "0",
        "--parent-shutdown-time-s",
        "60",
        "--service-cluster",
        "app.ns",
        "--service-node",
        "sidecar~1.2.3.4~a.b~b.svc",
        "--max-obj-name-len",
        "189",
        "--log-format",
        "%Y\t-%l",
        "--base-id=7",
        "--bootstrap-version",
        "3",
        "--file-flush-min-size-kb",
        "64",
        "--enable-core-dump",
        "--mode",
        "validate",
        "--config-yaml",
        "{node: {id: x}}",
        "--concurrency",
        "0",
        "--drain-time-s=5",
        "--drain-time-s=6",
    ]);
    assert_eq!(args.config, Some("e.json".into()));
    assert_eq!(args.mode, Mode::Validate);
    assert_eq!(args.config_yaml.as_deref(), Some("{node: {id: x}}"));
    assert_eq!(args.node.id.as_deref(), Some("sidecar~1.2.3.4~a.b~b.svc"));
    assert_eq!(args.node.cluster.as_deref(), Some("app.ns"));
    assert_eq!(args.concurrency, None);
    assert_eq!(args.drain_time, Duration::from_secs(6), "the last one counts");
}

#[test]
fn takes_mosn_spellings() {
    let args = run(&[
        "start",
        "-config",
        "m.json",
        "-sm",
        "a:b",
        "-sm=c:d",
        "-sl",
        "x:y",
        "-p",
        "router",
        "-pns",
        "ns",
        "-pn",
        "pod",
        "-pi",
        "1.2.3.4",
        "-domain",
        "d",
        "-f",
        "auto_config=true,MultiTenantMode=false",
        "-l",
        "WARN",
        "-lf",
        "text",
        "-lc",
        "a:debug",
        "--disable-hot-restart=false",
        "--log-format-prefix-with-location",
    ]);
    assert_eq!(args.config, Some("m.json".into()));
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(args.node.metadata, [pair("a", "b"), pair("c", "d")]);
    assert_eq!(args.node.labels, [pair("x", "y")]);
    assert_eq!(args.node.id.as_deref(), Some("router~1.2.3.4~pod.ns~d"));
    assert_eq!(args.feature_gates, [("auto_config".to_owned(), true), ("MultiTenantMode".to_owned(), false)]);
    assert_eq!(args.log_level, Some(LogLevel::Warn));
    for spelling in [["--c", "x"], ["--config", "x"], ["-c", "x"], ["-config", "x"]] {
        assert_eq!(run(&spelling).config, Some("x".into()));
    }
    for spelling in ["--c=x", "-c=x", "--config=x", "-config=x"] {
        assert_eq!(run(&["start", spelling]).config, Some("x".into()));
        assert_eq!(run(&[spelling, "start"]).config, Some("x".into()));
    }
}

#[test]
fn own_flags_have_defaults() {
    let args = run(&["start"]);
    assert_eq!(args.config, Some("configs/mosn_config.json".into()));
    assert_eq!(args.state_dir, None);
    let seconds = |d: Duration| d.as_secs();
    assert_eq!((seconds(args.route_hold), seconds(args.removed_cluster_linger)), (15, 15));
    assert_eq!((seconds(args.drain_accept), seconds(args.drain_time)), (0, 600));
    let args = run(&[
        "-c",
        "x",
        "--state-dir=/s",
        "--route-hold-s=1",
        "--removed-cluster-linger-s",
        "0",
        "--drain-accept-s=3",
    ]);
    assert_eq!(args.state_dir, Some("/s".into()));
    assert_eq!((seconds(args.route_hold), seconds(args.removed_cluster_linger)), (1, 0));
    assert_eq!(seconds(args.drain_accept), 3);
}

#[test]
fn environment_names_fill_what_flags_leave_open() {
    let env = [
        ("MOSN_CONFIG", "e.json"),
        ("SERVICE_CLUSTER", "c"),
        ("SERVICE_TYPE", "sidecar"),
        ("SERVICE_META", "a:b,c:d"),
        ("SERVICE_LAB", "l:1"),
        ("POD_IP", "1.1.1.1"),
        ("POD_NAME", "p"),
        ("POD_NAMESPACE", "n"),
        ("CLUSTER_DOMAIN", "d"),
        ("LOG_LEVEL", "debug"),
        ("FEATURE_GATES", "auto_config=true"),
    ];
    let Ok(Command::Run(args)) = with_env(&["start", "-s", "mine"], &env) else { panic!() };
    assert_eq!(args.config, Some("e.json".into()));
    assert_eq!(args.node.cluster.as_deref(), Some("mine"));
    assert_eq!(args.node.id.as_deref(), Some("sidecar~1.1.1.1~p.n~d"));
    assert_eq!(args.node.metadata.len(), 2);
    assert_eq!(args.log_level, Some(LogLevel::Debug));
    let Ok(Command::Run(args)) = with_env(&["-n", "id", "-c", "f"], &[("LOG_LEVEL", "loud")]) else {
        panic!()
    };
    assert_eq!((args.node.id.as_deref(), args.log_level), (Some("id"), None));
}

#[test]
fn the_other_commands() {
    let check = with_env(&["check", "-c", "x", "--format=json"], &[]).unwrap();
    assert_eq!(check, Command::Check(CheckArgs { config: "x".into(), config_yaml: None, json: true }));
    assert!(matches!(with_env(&["stop", "-c", "x"], &[]), Ok(Command::Stop(args)) if args.config.is_some()));
    assert!(matches!(with_env(&["reload"], &[]), Ok(Command::Reload(_))));
    assert_eq!(with_env(&["demo", "--hold"], &[]), Ok(Command::Demo(DemoArgs { hold: true })));
    let server = with_env(&["sample", "server", "--port", "9", "--delay=5", "--name", "v2"], &[]).unwrap();
    let Command::Sample(SampleArgs::Server(server)) = server else { panic!() };
    assert_eq!((server.port, server.delay.as_millis(), server.name.as_str()), (9, 5, "v2"));
    let client = with_env(&["sample", "client", "-t"], &[]).unwrap();
    let Command::Sample(SampleArgs::Client(client)) = client else { panic!() };
    assert!(client.repeat && client.addr == "127.0.0.1:2045");
}

#[test]
fn errors_are_one_line_that_names_the_flag() {
    assert!(error(&["-c", "x", "--no-such-flag"]).contains("unknown flag --no-such-flag"));
    assert!(error(&["start", "--no-such=1"]).contains("--no-such"));
    assert!(error(&["-c", "x", "-z"]).contains("-z"));
    assert!(error(&["-c", "x", "--concurrency", "many"]).contains("--concurrency"));
    assert!(error(&["-c", "x", "--concurrency"]).contains("--concurrency"));
    assert!(error(&["-c", "x", "-l", "loud"]).contains("loud"));
    assert!(error(&["-c", "x", "--mode", "dance"]).contains("--mode"));
    assert!(error(&["-c", "x", "-f", "Nope=true"]).contains("Nope"));
    assert!(error(&["-c", "x", "-f", "auto_config=1"]).contains("auto_config=1"));
    assert!(error(&["-c", "x", "-sm", "nokey"]).contains("nokey"));
    assert!(error(&["--concurrency", "1"]).contains("-c FILE"));
    assert!(error(&["fly"]).contains("fly"));
    let bare = with_env(&["check"], &[]).unwrap();
    let config = "configs/mosn_config.json".into();
    assert_eq!(bare, Command::Check(CheckArgs { config, config_yaml: None, json: false }));
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = with_env(&["start", "--help"], &[]).unwrap_err();
    assert_eq!(help.exit, 0);
    let flag = help.text.split("--restart-epoch").nth(1).unwrap();
    assert!(flag.trim_start_matches([' ', '<', 'V', '>', '\n']).starts_with("Accepted, no effect"));
    assert_eq!(with_env(&[], &[]).unwrap_err().exit, 0);
    let version = with_env(&["--version"], &[]).unwrap_err();
    assert_eq!((version.exit, version.text.contains(env!("CARGO_PKG_VERSION"))), (0, true));
    for short in ["-h", "-V", "-v"] {
        assert_eq!(with_env(&[short], &[]).unwrap_err().exit, 0, "{short}");
    }
}
