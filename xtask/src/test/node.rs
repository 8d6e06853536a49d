//! The programs that the node ring drives, and getting them.

use std::fs;
use std::path::Path;

use crate::machine;

pub(super) use crate::machine::obstacle;

/// Where Debian keeps modules that only its own python3 sees.
const MODULES: &str = "/usr/lib/python3/dist-packages/";

/// Programs that tests drive and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 22] = [
    ("nginx", "nginx"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("postgres", "postgresql"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("wrk", "wrk"),
    ("haproxy", "haproxy"),
    ("slowhttptest", "slowhttptest"),
    ("testssl", "testssl.sh"),
    ("/usr/lib/python3/dist-packages/h11", "python3-h11"),
    ("/usr/lib/python3/dist-packages/h2", "python3-h2"),
    ("/usr/lib/python3/dist-packages/websockets", "python3-websockets"),
    ("/usr/lib/python3/dist-packages/wsproto", "python3-wsproto"),
    ("/usr/lib/python3/dist-packages/grpc", "python3-grpcio"),
    ("/usr/lib/python3/dist-packages/google/protobuf", "python3-protobuf"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("faketime", "faketime"),
    ("ip", "iproute2"),
    ("python3", "python3"),
    ("strip", "binutils"),
];

/// Installs the programs that are missing, where that is possible; returns a sentence for each that still is.
pub(super) fn install_programs() -> Vec<String> {
    let missing = || PROGRAMS.into_iter().filter(|(program, _)| !is_installed(program));
    let packages: Vec<&str> = missing().map(|(_, package)| package).collect();
    if packages.is_empty() {
        return Vec::new();
    }
    let result = machine::install(&packages);
    let reason = result.err().map_or_else(String::new, |error| format!(" ({error:#})"));
    missing().map(|(program, _)| format!("MISSING: {program}{reason}")).collect()
}

fn is_installed(program: &str) -> bool {
    machine::find(program).is_some()
        || (program.starts_with(MODULES) && Path::new(program).is_dir())
        || (program == "postgres" && has_postgres(Path::new("/usr/lib/postgresql")))
}

/// Debian keeps postgres out of `PATH`, in a folder per version.
fn has_postgres(folder: &Path) -> bool {
    let versions = fs::read_dir(folder).into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin/postgres")).any(|path| machine::is_executable(&path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn postgres_is_found_in_its_version_folder_only_if_it_can_run() {
        let scratch = Scratch::new("node-test").unwrap();
        assert!(!has_postgres(scratch.path()));
        let program = scratch.path().join("15/bin/postgres");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "").unwrap();
        assert!(!has_postgres(scratch.path()));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(has_postgres(scratch.path()));
    }
}
