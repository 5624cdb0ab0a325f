//! The webhook signing secrets: the configured ones, or one made on first start.

use std::{io::Write, path::Path};

use anyhow::Context;
use raglan_pipeline::secret::Secret;
use rand::RngCore;
use tracing::info;

/// The configured secrets; where there are none, the one in the data folder, made now if it is not there yet.
pub fn signing_secrets(configured: &[Secret], data_dir: &Path) -> anyhow::Result<Vec<Secret>> {
    if !configured.is_empty() {
        return Ok(configured.to_vec());
    }
    let path = data_dir.join("webhook-secret");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(vec![Secret::new(text.trim())]),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0u8; 32];
            rand::rng().fill_bytes(&mut bytes);
            let secret = format!("whsec_{}", base64(&bytes));
            write_private(&path, &secret).with_context(|| format!("{} cannot be written", path.display()))?;
            info!(path = %path.display(), "webhook signing secret made");
            Ok(vec![Secret::new(secret)])
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
