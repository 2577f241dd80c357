//! Certificates for what runs in a lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{Context, Result};
use super::process;

/// Whom the lab's certificates are for.
pub const NAME: &str = "shop.example";

/// Has openssl make a key (P-256) and a certificate for [`NAME`] that it has signed itself, and puts both into one file of the folder.
///
/// # Errors
/// [`super::LabError`] when openssl fails, or the folder cannot be written to.
pub fn create(folder: &Path) -> Result<PathBuf> {
    let [key, certificate, both] = ["shop.key", "shop.crt", "shop.pem"].map(|name| folder.join(name));
    let mut openssl = Command::new("openssl");
    openssl.args(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 100 -subj /CN=shop".split(' '),
    );
    openssl.arg("-addext").arg(format!("subjectAltName=DNS:{NAME}"));
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    process::output(openssl, "")?;
    let read = |path: &Path| fs::read(path).doing(|| format!("reading {}", path.display()));
    let bundle = [read(&certificate)?, read(&key)?].concat();
    fs::write(&both, bundle).doing(|| format!("writing {}", both.display()))?;
    Ok(both)
}
