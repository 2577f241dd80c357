//! Reading the files: the configuration itself, and the pair's key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::config::{self, ConfigError, DiscoverSource, HealthCheck, KeyFileError, Pair};
use common::key::PairKey;

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tandem-config-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &[u8], mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The least that is a configuration.
const LEAST: &str = "[[service]]\nname = \"s\"\nmode = \"tcp\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n\
    [[target_group]]\nname = \"g\"\ntargets = [{ address = \"192.0.2.1:80\" }]\n";

fn pair(key_file: &Path) -> Pair {
    Pair { name: String::new(), key_file: Some(key_file.to_owned()) }
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let folder = Folder::new("paths");
    let text = format!("[pair]\nkey_file = \"pair.key\"\n[api]\ntoken_file = \"/etc/token\"\n{LEAST}");
    let path = folder.write("pair.toml", text.as_bytes(), 0o644);
    let config = config::load(&path).unwrap();
    assert_eq!(config.pair.key_file, Some(folder.0.join("pair.key")));
    assert_eq!(config.api.token_file, Some(PathBuf::from("/etc/token")));
}

#[test]
fn relative_paths_of_groups_and_services_start_there_too() {
    let folder = Folder::new("more-paths");
    let text = format!(
        "{LEAST}discover = {{ file = \"targets.toml\" }}\nhealth = {{ https = \"/\", ca_file = \"ca.pem\" }}\n"
    )
    .replace("forward = \"g\"\n", "forward = \"g\"\naccess_log = { file = \"access.log\" }\n");
    let path = folder.write("pair.toml", text.as_bytes(), 0o644);
    let config = config::load(&path).unwrap();
    assert_eq!(config.services[0].access_log.as_ref().unwrap().file, Some(folder.0.join("access.log")));
    let group = &config.target_groups[0];
    let file = folder.0.join("targets.toml");
    assert_eq!(group.discover.as_ref().unwrap().source, DiscoverSource::File(file));
    let HealthCheck::Http { ca_file, .. } = &group.health.as_ref().unwrap().check else {
        panic!("not https")
    };
    assert_eq!(ca_file, &Some(folder.0.join("ca.pem")));
}

#[test]
fn a_file_of_targets_is_checked_whole() {
    let folder = Folder::new("targets");
    let text = "targets = [\n  { address = \"192.0.2.1:80\", weight = 3, backup = true },\n  \
                { id = \"b\", address = \"192.0.2.2:80\", zone = \"z1\", max_connections = 5 },\n]\n";
    let path = folder.write("targets.toml", text.as_bytes(), 0o644);
    let [a, b] = &config::load_targets(&path).unwrap()[..] else { panic!("two targets") };
    assert_eq!((a.id.as_str(), a.weight, a.backup, &a.zone), ("192.0.2.1:80", 3, true, &None));
    assert_eq!((b.id.as_str(), b.zone.as_deref(), b.max_connections), ("b", Some("z1"), Some(5)));
    assert!(config::parse_targets("targets = []\n", &path).unwrap().is_empty());
    // Wherever the file is cut off, it is no file of targets any more.
    for end in 0..text.trim_end().len() {
        let errors = config::parse_targets(&text[..end], &path).unwrap_err();
        assert!(!errors.to_string().is_empty(), "cut at {end}");
    }
}

#[test]
fn errors_of_a_file_of_targets_are_shown_with_their_places() {
    let text = "targets = [\n  { address = \"192.0.2.1:80\" },\n  { address = \"192.0.2.1:80\", wieght = 1 },\n]\nmore = 1\n";
    let errors = config::parse_targets(text, Path::new("targets.toml")).unwrap_err().to_string();
    for head in [
        "targets.toml:3:15: targets.address: 192.0.2.1:80 is twice in this list\n",
        "targets.toml:3:31: targets.wieght: unknown key\n",
        "targets.toml:5:1: more: unknown key\n",
    ] {
        assert!(errors.contains(head), "{head} is missing in\n{errors}");
    }
    let error = config::load_targets(Path::new("/nonexistent/targets.toml")).unwrap_err();
    assert!(matches!(error, ConfigError::ReadTargets { .. }), "{error}");
}

#[test]
fn the_hash_is_that_of_the_files_bytes() {
    let parse = |text: &str| config::parse(text, Path::new("pair.toml")).unwrap().hash;
    // As `sha256sum` says.
    assert_eq!(parse(LEAST), 0x5f10_2fcb_23d0_cdf3);
    assert_ne!(parse(LEAST), parse(&format!("{LEAST}\n")));
}

#[test]
fn unreadable_configurations_are_named() {
    let folder = Folder::new("unreadable");
    let missing = folder.0.join("missing.toml");
    let binary = folder.write("binary.toml", &[0xff, 0xfe], 0o644);
    let large = folder.write("large.toml", &vec![b'\n'; (1 << 20) + 1], 0o644);
    for path in [&missing, &binary, &large, &folder.0] {
        let error = config::load(path).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let wrong = folder.write("wrong.toml", b"x = 1\n", 0o644);
    let error = config::load(&wrong).unwrap_err();
    let head = format!("{}:1:1: x: unknown key\n", wrong.display());
    assert!(error.to_string().starts_with(&head), "{error}");
    assert!(error.to_string().ends_with("\n1 error"), "{error}");
}

#[test]
fn a_key_is_read_when_only_its_owner_can() {
    let folder = Folder::new("key");
    let key = PairKey::new([0x5a; 32]);
    let path = folder.write("pair.key", key.to_text().as_bytes(), 0o600);
    assert_eq!(config::load_key(&pair(&path)).unwrap(), Some(key));
    assert_eq!(config::load_key(&Pair::default()).unwrap(), None);

    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = config::load_key(&pair(&path)).unwrap_err();
        assert!(matches!(error, KeyFileError::Permissions { .. }), "{error}");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
}

#[test]
fn what_is_no_key_is_told() {
    let folder = Folder::new("no-key");
    let error = config::load_key(&pair(&folder.0.join("missing"))).unwrap_err();
    assert!(matches!(error, KeyFileError::Read { .. }), "{error}");
    assert!(error.to_string().contains("vrrpd keygen"), "{error}");
    let short = folder.write("short.key", b"abc\n", 0o600);
    let error = config::load_key(&pair(&short)).unwrap_err();
    assert!(matches!(error, KeyFileError::Content { .. }), "{error}");
    // Not read at all: a pipe would never end.
    let error = config::load_key(&pair(Path::new("/dev/zero"))).unwrap_err();
    assert!(!matches!(error, KeyFileError::Content { .. }), "{error}");
}
