//! Mistakes and what the compiler says of them: the error stands at the user's line and names the remedy.
//!
//! `tests/ui` holds mistakes that the macro itself finds: its words are ours. `tests/ui/types` holds those only the
//! compiler can see; its words change between versions, so they are compared under the version they are kept for.
//! After a wanted change of words: `TRYBUILD=overwrite cargo test -p granary-macros --test ui`.

use std::process::Command;

/// The compiler whose words are kept in `tests/ui/types`.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn mistakes_point_at_the_users_line() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    let version =
        Command::new("rustc").arg("--version").output().expect("the compiler that built this answers");
    if String::from_utf8_lossy(&version.stdout).starts_with(COMPILER) {
        cases.compile_fail("tests/ui/types/*.rs");
    }
}
