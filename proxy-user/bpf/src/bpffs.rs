//! The file system that pins lie in. Where a host has not mounted it, Weir does, and the last Weir takes it away again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use proxy_io::mount;

/// Where bpffs belongs.
pub const BPFFS: &str = "/sys/fs/bpf";

/// What a kernel with CONFIG_BPF_PRELOAD puts into every bpffs that is mounted.
const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];

/// Mounts bpffs if it is missing. A file notes that Weir did, for whichever process is the last.
///
/// # Errors
/// The error of mounting, or of writing the file: then nothing stays mounted.
pub fn ensure(note: &Path) -> io::Result<()> {
    if !mount::ensure_bpffs(Path::new(BPFFS))? {
        return Ok(());
    }
    let noted = device().and_then(|device| fs::write(note, device.to_string()));
    noted.inspect_err(|_| {
        let _ = mount::unmount(Path::new(BPFFS));
    })
}

/// Takes bpffs away if Weir has mounted it and nobody has anything in it; tells whether it did. Nothing is noted any more in
/// either case: what others use is theirs from then on.
///
/// # Errors
/// The error of looking at it or of unmounting.
pub fn release(note: &Path) -> io::Result<bool> {
    let Ok(noted) = fs::read_to_string(note) else { return Ok(false) };
    fs::remove_file(note)?;
    // Somebody may have mounted another one meanwhile.
    let is_ours = mount::is_bpffs(Path::new(BPFFS)) && noted == device()?.to_string();
    if !is_ours || !is_empty()? {
        return Ok(false);
    }
    mount::unmount(Path::new(BPFFS)).map(|()| true)
}

fn device() -> io::Result<u64> {
    fs::metadata(BPFFS).map(|metadata| metadata.dev())
}

fn is_empty() -> io::Result<bool> {
    for entry in fs::read_dir(BPFFS)? {
        let name = entry?.file_name();
        if PRELOADED.iter().all(|preloaded| name != *preloaded) {
            return Ok(false);
        }
    }
    Ok(true)
}
