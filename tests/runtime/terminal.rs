//! Terminals and signals: `run`, `attach`, `start` and `exec` on a pseudo terminal.

use std::fs;

use super::both;

/// Plays a scene of `terminal.py`.
fn play(scene: &str, expected: &str) {
    both(|host| {
        fs::write(host.path("terminal.py"), include_str!("terminal.py")).unwrap();
        let out = host.run(&format!("python3 terminal.py {} {scene}", host.program().display()));
        assert_eq!(out, expected);
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn the_terminal_inside_has_the_size_of_ours_and_follows_it() {
    play("size", "run 5 restored\nexec 6 restored\none\n");
}

#[test]
fn detach_keys_leave_the_program_running_and_attach_has_it_back() {
    let expected = "run 0 restored running\nattach 0 restored running\nattach 9 restored ended\n\
                    exec 0 restored running\nstart 3 restored ended\none\n";
    play("detach", expected);
}

#[test]
fn keys_of_ones_own_detach_wherever_there_is_a_terminal() {
    let expected = "run 0 restored running\nexec 0 restored running\nstart 0 restored running\n\
                    attach 0 restored running\none\n";
    play("own_keys", expected);
}

#[test]
fn signals_to_the_command_reach_the_program() {
    play("signals", "run got 7\nrun  143\n");
}

#[test]
fn a_terminal_that_hangs_up_ends_the_command_and_not_the_container() {
    play("hang_up", "running running\nattach 8 restored\none\ntwo\n");
}
