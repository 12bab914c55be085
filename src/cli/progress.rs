//! Progress on standard error: bars on a terminal, lines or JSON on request, nothing in a pipe.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::ProgressMode;
use crate::base::progress::{Event, Progress};

/// The renderer for a mode.
pub fn choose(mode: ProgressMode) -> Box<dyn Progress> {
    match mode {
        ProgressMode::Auto if std::io::stderr().is_terminal() => Box::new(Bars::default()),
        ProgressMode::Auto | ProgressMode::None => Box::new(Quiet),
        ProgressMode::Plain => Box::new(Plain::default()),
        ProgressMode::Json => Box::new(Json),
    }
}

/// Shows warnings only.
struct Quiet;

impl Progress for Quiet {
    fn event(&self, event: Event) {
        if let Event::Warning(text) = event {
            eprintln!("ferry: warning: {text}");
        }
    }
}

/// A bar of a known length, with the time that is left.
const SIZED: &str = "{prefix}: {msg} [{bar:30}] {bytes}/{total_bytes} {eta}";

/// One bar a task.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<u64, ProgressBar>>,
}

impl Progress for Bars {
    fn event(&self, event: Event) {
        let mut bars = self.bars.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            Event::Began { task, action, object, total } => {
                let (bar, template) = match total {
                    Some(total) => (ProgressBar::new(total), SIZED),
                    None => (ProgressBar::no_length(), "{prefix}: {msg} {bytes}"),
                };
                let bar = self.all.add(bar);
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(object);
                bar.set_message(action);
                bars.insert(task, bar);
            }
            Event::Advanced { task, done } => {
                if let Some(bar) = bars.get(&task) {
                    bar.set_position(done);
                }
            }
            Event::Sized { task, total } => {
                if let Some(bar) = bars.get(&task) {
                    bar.set_length(total);
                    if let Ok(style) = ProgressStyle::with_template(SIZED) {
                        bar.set_style(style.progress_chars("=> "));
                    }
                }
            }
            Event::Ended { task, completed } => {
                if let Some(bar) = bars.remove(&task) {
                    if completed { bar.finish_and_clear() } else { bar.abandon() }
                }
            }
            Event::Warning(text) => {
                // A closed terminal must not end the work.
                let _ = self.all.println(format!("ferry: warning: {text}"));
            }
        }
    }
}

/// One line when a task begins and one when it ends.
#[derive(Default)]
struct Plain {
    names: Mutex<HashMap<u64, (&'static str, String, u64)>>,
}

impl Progress for Plain {
    fn event(&self, event: Event) {
        let mut names = self.names.lock().unwrap_or_else(|e| e.into_inner());
        match event {
            Event::Began { task, action, object, .. } => {
                eprintln!("{object}: {action}");
                names.insert(task, (action, object, 0));
            }
            Event::Advanced { task, done } => {
                if let Some(entry) = names.get_mut(&task) {
                    entry.2 = done;
                }
            }
            Event::Sized { .. } => {}
            Event::Ended { task, completed } => {
                if let Some((action, object, done)) = names.remove(&task) {
                    eprintln!("{object}: {action}: {} ({done} bytes)", if completed { "done" } else { "failed" });
                }
            }
            Event::Warning(text) => eprintln!("ferry: warning: {text}"),
        }
    }
}

/// One JSON object a line.
struct Json;

impl Progress for Json {
    fn event(&self, event: Event) {
        let line = match event {
            Event::Began { task, action, object, total } => {
                serde_json::json!({"event": "began", "task": task, "action": action, "object": object, "total": total})
            }
            Event::Advanced { task, done } => serde_json::json!({"event": "advanced", "task": task, "done": done}),
            Event::Sized { task, total } => serde_json::json!({"event": "sized", "task": task, "total": total}),
            Event::Ended { task, completed } => {
                serde_json::json!({"event": "ended", "task": task, "completed": completed})
            }
            Event::Warning(text) => serde_json::json!({"event": "warning", "text": text}),
        };
        // A reader that went away must not end the work.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}
