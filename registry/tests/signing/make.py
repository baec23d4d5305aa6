"""Which signatures does the test of model signing check, and who made them?

The package model-signing did, as anybody would: this script signs a small folder with it and keeps what it wrote beside itself. Keys
are made anew each time, so that no private key is in the repository.

    pip install model-signing==1.1.1 pyopenssl
    python make.py
"""

import datetime
import pathlib
import shutil
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from model_signing import hashing, signing

HERE = pathlib.Path(__file__).parent
# Beside the model: a folder, and what git leaves behind, which the package never signs.
FILES = {
    "model.onnx": b"not a model, but bytes to sign\n",
    "weights.bin": bytes(range(256)) * 8,
    "golden/first.json": b'{"inputs": []}\n',
    ".gitattributes": b"*.onnx filter=lfs\n",
}
# What the clients' tests serve signed.
SERVED = HERE.parents[2] / "tests" / "fixtures" / "models" / "two_in_two_out" / "1"
FROM = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def private(key, path):
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return path


def public(key, name):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (HERE / name).write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


def certificate(subject, key, issuer, issuer_key, days, *extensions):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(FROM).not_valid_after(FROM + datetime.timedelta(days=days))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def usage(**on):
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: on.get(name, False) for name in names}), True


def with_keys(model, keys):
    def sign(key, to, config=None):
        signer = signing.Config().use_elliptic_key_signer(private_key=private(key, keys / "key.pem"))
        signer.set_hashing_config(config or hashing.Config()).sign(model, HERE / to)

    for name, curve in ("p256", ec.SECP256R1()), ("p384", ec.SECP384R1()), ("p521", ec.SECP521R1()):
        key = ec.generate_private_key(curve)
        public(key, f"{name}.pub")
        sign(key, f"{name}.sig")
        if name == "p256":
            signer = signing.Config().use_elliptic_key_signer(private_key=keys / "key.pem")
            signer.set_hashing_config(hashing.Config()).sign(SERVED, HERE / "served.sig")
            sign(key, "shards.sig", hashing.Config().use_shard_serialization())
            sign(key, "small-shards.sig", hashing.Config().use_shard_serialization(shard_size=1000))
            sign(key, "blake3.sig", hashing.Config().use_file_serialization(hashing_algorithm="blake3"))
            sign(key, "ignoring.sig", hashing.Config().set_ignored_paths(paths=["weights.bin"]))


def with_certificates(model, keys):
    """A root, an authority below it, and three whom that vouches for: the last one's certificate is not for signing."""
    root, middle = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    authority = (x509.BasicConstraints(ca=True, path_length=None), True)
    may_certify = usage(key_cert_sign=True, crl_sign=True)
    code_signing = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
    server = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    pem = serialization.Encoding.PEM
    roots = certificate("Models Root", root, "Models Root", root, 3650, authority, may_certify)
    (HERE / "root.crt").write_bytes(roots.public_bytes(pem))
    below = certificate("Models Authority", middle, "Models Root", root, 1825, authority, may_certify)
    (keys / "middle.crt").write_bytes(below.public_bytes(pem))
    leaves = {
        "certificate": ("Risk Team", usage(digital_signature=True), code_signing),
        "usage-only": ("Fraud Team", usage(digital_signature=True)),
        "server": ("Some Server", usage(digital_signature=True), server),
    }
    for name, (subject, *extensions) in leaves.items():
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certificate(subject, key, "Models Authority", middle, 30, *extensions)
        (keys / "leaf.crt").write_bytes(leaf.public_bytes(pem))
        signer = signing.Config().use_certificate_signer(
            private_key=private(key, keys / "key.pem"),
            signing_certificate=keys / "leaf.crt",
            certificate_chain=[keys / "middle.crt"],
        )
        signer.set_hashing_config(hashing.Config()).sign(model, HERE / f"{name}.sig")


def main():
    with tempfile.TemporaryDirectory() as folder:
        model, keys = pathlib.Path(folder, "risk"), pathlib.Path(folder, "keys")
        keys.mkdir()
        for name, content in FILES.items():
            path = model / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with_keys(model, keys)
        with_certificates(model, keys)
        shutil.rmtree(HERE / "model", ignore_errors=True)
        shutil.copytree(model, HERE / "model", ignore=shutil.ignore_patterns(".*"))


if __name__ == "__main__":
    main()
