"""The last good snapshot on disk: written, restored, confirmed, refused."""
import json
import os
import pathlib
import stat
import time

from ads import CDS, EDS, LDS, RDS, Ads
from cases_xds import Lab, bolt_world, both
from harness import SLACK, Folder, Mizzen, case, equal, free_port, until
from resources import cluster, listener, routes, rpc_filter, tcp_filter, to
from wire import BoltServer, TcpServer, call, refused


def saved(folder):
    """The files in a state folder once there are any."""
    return until("a state file", lambda: [p for p in pathlib.Path(folder).glob("*") if "tmp" not in p.name], 12)


def fill(delta, folder, world, args=()):
    """Runs a proxy until its world is on disk; gives the configuration to start it again."""
    with Lab(delta, "--state-dir", str(folder), *args, hold=world) as lab:
        lab.proxy.live()
        saved(folder)
        time.sleep(0.3)
        path = lab.proxy.folder.path / "config.json"
        text = path.read_text()
        equal(lab.proxy.end(), 0)
        return text, lab.ads


@both
def state_is_written_safely(delta):
    """folder 0700 made if missing, files 0600, on disk within 10 s, no temporary left, no rewrite without a change"""
    with BoltServer() as up, Folder() as folder:
        where = folder.path / "made" / "here"
        world = bolt_world(free_port(), [up.port])
        with Lab(delta, "--state-dir", str(where), hold=world) as lab:
            lab.proxy.live()
            start = time.monotonic()
            files = saved(where)
            assert time.monotonic() - start < 11
            equal(stat.S_IMODE(where.stat().st_mode), 0o700, "folder mode")
            time.sleep(1)
            files = list(where.iterdir())
            for file in files:
                equal(stat.S_IMODE(file.stat().st_mode), 0o600, f"mode of {file.name}")
            before = [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files]
            for kind, resource in world:
                lab.ads.put(kind, resource)
            time.sleep(2)
            equal([(f.stat().st_ino, f.stat().st_mtime_ns) for f in where.iterdir()], before, "rewritten without a change")


@both
def restored_when_refused(delta):
    """control plane refuses: the snapshot serves within 250 ms of exec, stale gauge 1; back to 0 once it answers"""
    port = free_port()
    with BoltServer() as up, Folder() as folder:
        text, old = fill(delta, folder.path / "s", bolt_world(port, [up.port]))
        admin = free_port()
        config = json.loads(text)
        config["admin"]["address"]["socket_address"]["port_value"] = admin
        started = time.monotonic()
        with Mizzen(config, "--state-dir", str(folder.path / "s")) as proxy:
            until("it serves", lambda: not refused(port), 3)
            took = time.monotonic() - started
            equal(call(port).status, 0)
            assert took < 0.25 + SLACK, f"served after {took * 1000:.0f} ms"
            proxy.live(2)
            equal(set(proxy.gauge("mizzen_snapshot_stale").values()), {1.0}, "stale gauge")
            assert proxy.gauge("mizzen_snapshot_age_seconds"), "no age gauge"
            equal(len(proxy.gauge("mizzen_xds_seconds_since_contact")) in (0, 4), True, "seconds since contact")
            with Ads(delta, port=old.port) as ads:
                for kind, resource in bolt_world(port, [up.port]):
                    ads.hold(kind, resource)
                first = ads.wait("RDS", lambda s: s.type == RDS, 35)
                for s in ads.of():
                    if not s.request.response_nonce:
                        if delta and s.request.initial_resource_versions:
                            equal(set(s.request.initial_resource_versions.values()), {""}, "initial versions")
                        equal(getattr(s.request, "version_info", ""), "", "version after a restore")
                if delta:
                    equal(list(first.request.initial_resource_versions), ["table"], "names after a restore")
                until("stale gauge 0", lambda: set(proxy.gauge("mizzen_snapshot_stale").values()) == {0.0})
                equal(len(proxy.gauge("mizzen_xds_seconds_since_contact")), 4, "seconds since contact, per type")
                equal(call(port).status, 0)


@both
def restored_when_silent(delta):
    """control plane accepts but says nothing: restored after 1 s; absent CDS/LDS names go with the first answer"""
    port = free_port()
    with BoltServer() as up, Folder() as folder:
        text, old = fill(delta, folder.path / "s", bolt_world(port, [up.port]))
        with Ads(delta, port=old.port) as ads:
            ads.silent = {CDS, EDS, LDS, RDS}
            config = json.loads(text)
            admin = free_port()
            config["admin"]["address"]["socket_address"]["port_value"] = admin
            started = time.monotonic()
            with Mizzen(config, "--state-dir", str(folder.path / "s")) as proxy:
                until("it serves", lambda: not refused(port), 5)
                took = time.monotonic() - started
                assert 0.8 <= took <= 1.3 + SLACK, f"served after {took:.2f} s"
                equal(call(port).status, 0)
                other = free_port()
                # The first answers hold neither the old cluster nor the old listener.
                ads.silent = set()
                ads.held[CDS], ads.held[LDS] = {"new": cluster("new", [up.port])}, {}
                equal(ads.answer(ads.raw(CDS, [cluster("new", [up.port])])).error, "")
                ads.wait("LDS", lambda s: s.type == LDS)
                equal(ads.answer(ads.raw(LDS, [listener("n", other, rpc_filter("t2"))])).error, "")
                ads.wait("RDS", lambda s: s.type == RDS and "t2" in str(s.request))
                equal(ads.answer(ads.raw(RDS, [routes("t2", to("new"))])).error, "")
                until("new listener", lambda: not refused(other) and call(other).status == 0)
                until("the restored listener is gone", lambda: refused(port))
                until("the restored cluster is gone", lambda: "\nup::" not in "\n" + proxy.admin("/clusters")[1])


@case
def bad_state_files():
    """a truncated, foreign, changed or linked file: a message with `snapshot` on stderr, ignored, start goes on"""
    port = free_port()
    with TcpServer() as up, Folder() as folder:
        where = folder.path / "s"
        world = [(CDS, cluster("up", [up.port])), (LDS, listener("l", port, tcp_filter("up")))]
        text, _ = fill(False, where, world)
        good = {f.name: f.read_bytes() for f in where.iterdir() if f.is_file()}
        name, body = max(good.items(), key=lambda item: len(item[1]))
        flipped = bytearray(body)
        flipped[-3] ^= 1
        middle = bytearray(body)
        middle[len(body) // 2] ^= 0x40
        bad = {"truncated": body[:-7], "half": body[:len(body) // 2], "empty": b"", "short": body[:5],
               "flipped": bytes(flipped), "middle": bytes(middle), "foreign": b"#!/bin/sh\necho\n" * 50,
               "longer": body + b"x"}
        for what, data in bad.items():
            (where / name).write_bytes(data)
            check_ignored(json.loads(text), where, port, what)
        (where / name).write_bytes(body)
        for what, change in (("node", lambda c: c["node"].update(id="other~2")),
                             ("cluster", lambda c: c["node"].update(cluster="other")),
                             ("static", lambda c: c["static_resources"]["clusters"].append(
                                 {"name": "new", "type": "STATIC", "connect_timeout": "1s"}))):
            config = json.loads(text)
            change(config)
            check_ignored(config, where, port, "other " + what)
        (where / name).rename(folder.path / "elsewhere")
        (where / name).symlink_to(folder.path / "elsewhere")
        check_ignored(json.loads(text), where, port, "symbolic link")
        # And the good one still works.
        (where / name).unlink()
        (where / name).write_bytes(body)
        os.chmod(where / name, 0o600)
        config = json.loads(text)
        config["admin"]["address"]["socket_address"]["port_value"] = free_port()
        with Mizzen(config, "--state-dir", str(where)) as proxy:
            until("the good file serves", lambda: not refused(port))


def check_ignored(config, where, port, what):
    config["admin"]["address"]["socket_address"]["port_value"] = free_port()
    with Mizzen(config, "--state-dir", str(where)) as proxy:
        proxy.wait_admin()
        until(f"{what}: a message with `snapshot`", lambda: "snapshot" in proxy.text().lower(), 3)
        time.sleep(0.1)
        assert refused(port), f"{what}: was applied"
        assert proxy.process.poll() is None, f"{what}: ended"


@case
def no_secret_on_disk():
    """state off by default: nothing is written without --state-dir"""
    port = free_port()
    with TcpServer() as up, Folder() as folder, Lab(
            False, hold=[(CDS, cluster("up", [up.port])), (LDS, listener("l", port, tcp_filter("up")))]) as lab:
        lab.proxy.live()
        time.sleep(1)
        files = {p.name for p in lab.proxy.folder.path.iterdir()}
        equal(files, {"config.json", "log"}, "files beside the configuration")


@both
def serves_through_a_long_loss(delta):
    """control plane gone: data plane unchanged; after SIGKILL and restart the snapshot carries on"""
    port = free_port()
    with BoltServer() as up, Folder() as folder:
        with Lab(delta, "--state-dir", str(folder.path / "s"), hold=bolt_world(port, [up.port])) as lab:
            lab.proxy.live()
            saved(folder.path / "s")
            lab.ads.stop()
            time.sleep(0.5)
            equal(call(port).status, 0)
            lab.proxy.process.kill()
            lab.proxy.process.wait()
            text = (lab.proxy.folder.path / "config.json").read_text()
            with Mizzen(json.loads(text), "--state-dir", str(folder.path / "s")) as again:
                until("serves again", lambda: not refused(port), 4)
                equal(call(port).status, 0)
