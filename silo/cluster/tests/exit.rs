//! A fail point armed with `exit` ends the process at once.

use std::process::Command;

use granary_cluster::fail;

/// Set in the process that is to end.
const IS_CHILD: &str = "GRANARY_TEST_EXIT_CHILD";

#[test]
fn exit_ends_the_process() {
    if std::env::var_os(IS_CHILD).is_some() {
        return pass_twice();
    }
    let me = std::env::current_exe().unwrap();
    let mut child = Command::new(me);
    child.args(["--exact", "exit_ends_the_process", "--nocapture"]).env(IS_CHILD, "1");
    let child = child.output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(said.contains("passed once"), "{said}");
    assert!(!said.contains("passed twice"), "{said}");
    assert!(!child.status.success());
    assert_eq!(child.status.code(), None, "it ended by a signal, not by an orderly exit: {:?}", child.status);
}

fn pass_twice() {
    fail::arm("seal.after=2:exit").expect("a fail point of that name");
    assert!(fail::point("seal.after").is_ok());
    println!("passed once");
    let passed = fail::point("seal.after");
    println!("passed twice: {passed:?}");
}
