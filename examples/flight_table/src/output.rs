//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

/// A file with `.partial` behind its name, which it loses in [`OutputFile::finish`].
///
/// What is no regular file, such as `/dev/stdout` or a pipe, is written directly. Dropped without
/// being finished, it leaves what was there before.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    writer: BufWriter<Target>,
}

#[derive(Debug)]
enum Target {
    Direct(File),
    Renamed(NamedTempFile, PathBuf),
}

impl OutputFile {
    /// Begins the file.
    ///
    /// # Errors
    /// Its folder is not there, or we may not write there.
    pub fn create(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            writer: BufWriter::new(Target::open(path).map_err(|source| Error::new(path, source))?),
            path: path.to_owned(),
        })
    }

    /// Writes what is still buffered and puts the file in its place.
    ///
    /// # Errors
    /// The disk is full, or the place cannot be taken.
    pub fn finish(self) -> Result<(), Error> {
        let Self { path, writer } = self;
        writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(Target::finish)
            .map_err(|source| Error::new(&path, source))
    }

    /// The error of a writer on top of this one, with the file's name.
    pub fn error(&self, source: impl Into<io::Error>) -> Error {
        Error::new(&self.path, source.into())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return File::options().write(true).open(path).map(Self::Direct);
        }
        // A symbolic link stays one: the file it leads to is replaced.
        let path = path.canonicalize().or_else(|_| std::path::absolute(path))?;
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        // One fixed name, so that what a killed run leaves behind is overwritten by the next one.
        let file = File::create(&partial)?;
        let file = NamedTempFile::from_parts(file, TempPath::try_from_path(partial)?);
        Ok(Self::Renamed(file, path))
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Direct(_) => Ok(()),
            Self::Renamed(file, path) => {
                file.as_file().sync_all()?;
                file.persist(path)?;
                Ok(())
            }
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Direct(file) => file.write(bytes),
            Self::Renamed(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Direct(file) => file.flush(),
            Self::Renamed(file, _) => file.flush(),
        }
    }
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Error {
    /// What the system says about a file.
    pub fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_finished() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.json");
        for content in ["first", "second"] {
            let before = std::fs::read(&path).ok();
            let mut file = OutputFile::create(&path).expect("a folder to write to");
            file.write_all(content.as_bytes()).expect("room");
            file.flush().expect("room");
            assert_eq!(std::fs::read(&path).ok(), before);
            file.finish().expect("room");
            assert_eq!(std::fs::read_to_string(&path).expect("there"), content);
        }
        let mut dropped = OutputFile::create(&path).expect("a folder to write to");
        dropped.write_all(b"third").expect("room");
        drop(dropped);
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "second");
        let names = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 1, "no temporary file is left");
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_links_stay_what_they_are() {
        use std::os::unix::fs::FileTypeExt;

        let null = Path::new("/dev/null");
        let mut file = OutputFile::create(null).expect("always there");
        file.write_all(b"gone").expect("room");
        file.finish().expect("nothing to do");
        let kind = std::fs::metadata(null).expect("still there").file_type();
        assert!(kind.is_char_device());

        let folder = tempfile::tempdir().expect("a folder");
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").expect("room");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        let mut file = OutputFile::create(&link).expect("a folder to write to");
        file.write_all(b"new").expect("room");
        file.finish().expect("room");
        assert_eq!(std::fs::read_to_string(&target).expect("there"), "new");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_place_that_is_not_there_is_named() {
        let error = OutputFile::create(Path::new("/nowhere/report.json")).expect_err("no folder");
        assert_eq!(error.to_string(), "cannot write /nowhere/report.json");
    }
}
