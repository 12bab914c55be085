//! Command lines as docker takes them, whose flags are pflag's: `--rm=false`, `-it=true`, the last of a flag that comes
//! twice, a value that begins with a dash; and docker's exit codes for those that make no sense.

use std::ffi::OsString;

use clap::builder::ValueRange;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command, CommandFactory, Error, FromArgMatches};

use super::Cli;

/// Parses.
///
/// Flags are flags at first, and so are they in help and errors; a line that makes no sense that way is read once more with
/// flags that take a value.
pub fn parse(args: &[OsString]) -> Result<Cli, Error> {
    let read = |mut command: Command| {
        let mut matches = command.try_get_matches_from_mut(args)?;
        Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    };
    let plain = match read(values_may_be_anything(Cli::command())) {
        Err(error) if error.use_stderr() => error,
        parsed => return parsed,
    };
    match read(flags_take_values(values_may_be_anything(Cli::command()))) {
        Err(error) if error.use_stderr() => Err(plain),
        parsed => parsed,
    }
}

/// What follows an option that needs a value is its value, also when it begins with a dash.
fn values_may_be_anything(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let one = arg.get_num_args().is_none_or(|number| number == ValueRange::SINGLE);
        let option = !arg.is_positional() && arg.get_action().takes_values();
        if option && one { arg.allow_hyphen_values(true) } else { arg }
    });
    command.mut_subcommands(values_may_be_anything)
}

fn flags_take_values(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(boolean),
        _ => arg,
    });
    command.mut_subcommands(flags_take_values)
}

/// What Go's `strconv.ParseBool` takes.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Docker's exit code for such an error: 125 for flags, 1 for words, and none for a group of commands that is only named.
pub fn dockers_code(error: &Error) -> u8 {
    let flag = matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg.starts_with('-'));
    match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => 0,
        ErrorKind::UnknownArgument | ErrorKind::InvalidValue | ErrorKind::ValueValidation if !flag => 1,
        ErrorKind::MissingRequiredArgument | ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => 1,
        _ => 125,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        ["ferry"].into_iter().chain(line.split(' ')).map(OsString::from).collect()
    }

    #[test]
    fn flags_are_read_as_pflag_reads_them() {
        for (line, same) in [
            ("run --rm=true i", "run --rm i"),
            ("run --rm=false i", "run i"),
            ("run --rm --rm=0 --rm i", "run --rm i"),
            ("run --rm --rm i", "run --rm i"),
            ("run -it=false i", "run -i i"),
            ("run -it=T i", "run -i -t i"),
            ("run -d=f -i i sh -c=x --rm=true", "run -i i sh -c=x --rm=true"),
            ("run --name a --name=b i", "run --name b i"),
            ("run -eA=b -p=80:80 -e=C=d i", "run -e A=b -p 80:80 -e C=d i"),
            ("ps --all=true -q=false", "ps -a"),
            ("rm -f=true x", "rm -f x"),
            ("volume ls -q=1", "volume ls -q"),
            ("network prune --force=true", "network prune -f"),
            ("logs --tail=3 --follow=false x", "logs --tail 3 x"),
            ("exec --privileged=true -it x sh", "exec --privileged -i -t x sh"),
            ("run -e -x --hostname -foo -l --rm i", "run -e=-x --hostname=-foo -l=--rm i"),
            ("run --entrypoint -- --health-cmd -c i -x", "run --entrypoint=-- --health-cmd=-c i -x"),
            ("run -m -1 --rm=true i", "run -m=-1 --rm i"),
            ("logs --until -1h -n -1 x", "logs --until=-1h -n=-1 x"),
            ("commit -m -fixed -a -b -c -d x", "commit -m=-fixed -a=-b -c=-d x"),
            ("volume create --label -x --opt -y", "volume create --label=-x --opt=-y"),
            ("load -i -", "load -i=-"),
        ] {
            let read = |line| format!("{:?}", parse(&args(line)).unwrap().command);
            assert_eq!(read(line), read(same), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_has_dockers_codes_and_plain_words() {
        for (line, code) in [
            ("run --nope i", 125),
            ("ps --nope", 125),
            ("ps --all=maybe", 125),
            ("stop -t x a", 125),
            ("run --memory x i", 125),
            ("ps x", 1),
            ("run", 1),
            ("rm", 1),
            ("volume nope", 1),
            ("volume rm", 1),
            ("network create", 1),
            ("network create a b", 1),
            ("container nope", 1),
            ("volume", 0),
            ("container", 0),
        ] {
            let error = parse(&args(line)).unwrap_err();
            assert_eq!(dockers_code(&error), code, "{line}: {error}");
        }
        assert!(parse(&args("run --help")).unwrap_err().to_string().contains("      --rm\n"));
        assert!(!parse(&args("run --rm=true --help")).unwrap_err().use_stderr());
    }
}
