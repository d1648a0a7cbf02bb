"""What gives a workload its identity: a root with an intermediate for istiod, and tokens as Kubernetes would sign."""
import base64
import json
import subprocess
import time

from spaces import run

ISSUER = "https://issuer.lab.test"
_RSA_EXPONENT = "AQAB"


def _encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """An RSA key that signs tokens, and its key set."""

    def __init__(self, folder, name, issuer=ISSUER):
        self.key, self.issuer, self.id = folder / f"{name}.pem", issuer, name
        run("openssl", "genrsa", "-out", self.key, "2048")
        modulus = run("openssl", "rsa", "-in", self.key, "-noout", "-modulus").strip().partition("=")[2]
        self.keys = {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": name, "e": _RSA_EXPONENT,
                               "n": _encoded(bytes.fromhex(modulus))}]}

    def token(self, subject, audience="istio-ca", life=3600, **claims):
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": subject, "aud": [audience], "iat": now - 5, "exp": now + life, **claims}
        head = {"alg": "RS256", "typ": "JWT", "kid": self.id}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(self.key)], input=text.encode(),
                                capture_output=True, check=True).stdout
        return f"{text}.{_encoded(signed)}"


def authority(folder):
    """Writes the four files of a plugged-in authority into `folder`; the root's PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    root, root_key = folder / "root-cert.pem", folder / "root-key.pem"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "30", "-subj",
        "/O=lab/CN=root", "-keyout", root_key, "-out", root, "-addext", "basicConstraints=critical,CA:true")
    request, extensions = folder / "request.pem", folder / "extensions"
    run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=lab/CN=intermediate",
        "-keyout", folder / "ca-key.pem", "-out", request)
    extensions.write_text("basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
                          "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    run("openssl", "x509", "-req", "-in", request, "-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", "20",
        "-sha256", "-extfile", extensions, "-out", folder / "ca-cert.pem")
    (folder / "cert-chain.pem").write_text((folder / "ca-cert.pem").read_text() + root.read_text())
    for file in folder.iterdir():
        file.chmod(0o644)
    return root.read_text()


def leaf(folder, name, *names, authority_folder, kind="rsa:2048"):
    """A certificate of the root for `names` ("DNS:…", "URI:…"): (chain file, key file). `kind`: openssl's word."""
    chain, key, request = folder / f"{name}.pem", folder / f"{name}-key.pem", folder / f"{name}-request.pem"
    extensions = folder / f"{name}-extensions"
    extensions.write_text("subjectAltName=" + ",".join(names) + "\n")
    curve = ("-pkeyopt", "ec_paramgen_curve:prime256v1") if kind == "ec" else ()
    run("openssl", "req", "-new", "-newkey", kind, *curve, "-nodes", "-subj", "/O=lab", "-keyout", key,
        "-out", request)
    run("openssl", "x509", "-req", "-in", request, "-CA", authority_folder / "root-cert.pem", "-CAkey",
        authority_folder / "root-key.pem", "-CAcreateserial", "-days", "20", "-sha256", "-extfile", extensions,
        "-out", chain)
    return chain, key
