//! A fail point armed with `exit` ends the process at once.

use std::process::Command;

use granary_cluster::fail;

/// Runs only in the process that [`exit_ends_the_process`] starts.
#[test]
#[ignore = "ends its process"]
fn child() {
    fail::arm("seal.after=2:exit").unwrap();
    assert!(fail::point("seal.after").is_ok());
    println!("passed once");
    let passed = fail::point("seal.after");
    println!("passed twice: {passed:?}");
}

#[test]
fn exit_ends_the_process() {
    let me = std::env::current_exe().unwrap();
    let child = Command::new(me).args(["--exact", "child", "--ignored", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(said.contains("passed once"), "{said}");
    assert!(!said.contains("passed twice"), "{said}");
    assert!(!child.status.success());
    assert_eq!(child.status.code(), None, "it ended by a signal, not by an orderly exit: {:?}", child.status);
}
