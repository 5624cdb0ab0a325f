//! The migrations of both databases, as they are in the program.
//!
//! They are listed here, not gathered by `sqlx::migrate!`: for that one macro cargo builds both drivers and SQLite a second time.

use std::sync::LazyLock;

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// The statements of a file in `migrations/`.
macro_rules! statements {
    ($file:literal) => {
        include_str!(concat!("../../../migrations/", $file))
    };
}

#[cfg(feature = "postgres")]
pub(super) static POSTGRES: LazyLock<Migrator> =
    LazyLock::new(|| migrator(&[(1, "initial", statements!("postgres/0001_initial.sql"))]));

#[cfg(feature = "sqlite")]
pub(super) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (1, "initial", statements!("sqlite/0001_initial.sql")),
        (2, "receipts", statements!("sqlite/0002_receipts.sql")),
    ])
});

/// Of migrations by number, name and statements.
fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(number, name, statements): &(i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, SqlStr::from_static(statements), false)
    };
    Migrator::with_migrations(migrations.iter().map(migration).collect())
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    use std::path::Path;

    use super::*;

    /// What sqlx itself finds in the folder: every file is listed, under its number and name, and has the checksum that databases have stored.
    #[tokio::test]
    async fn every_file_is_in_the_program_as_sqlx_reads_it() {
        for (folder, listed) in [("postgres", &*POSTGRES), ("sqlite", &*SQLITE)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(folder);
            let found = Migrator::new(folder.as_path()).await.unwrap();
            let all = |migrator: &Migrator| {
                let of = |migration: &Migration| {
                    let Migration { version, description, migration_type, sql, checksum, no_tx } =
                        migration.clone();
                    (version, description, migration_type, sql.as_str().to_owned(), checksum, no_tx)
                };
                migrator.iter().map(of).collect::<Vec<_>>()
            };
            assert_eq!(all(listed), all(&found), "{}", folder.display());
        }
    }
}
