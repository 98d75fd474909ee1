//! What no input may do: panic, hang, or take all memory. Damaged good files, random bytes, and files made to hurt.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use config::{Options, Problems, load, to_json};

/// Longest that any file here may take, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The reason that `load` gives when one of its stages panicked.
const PANICKED: &str = "that is a defect";

/// Reads, within the time, without a panic, with places that exist.
fn survives(name: &str, text: &str) -> Result<usize, Problems> {
    let start = Instant::now();
    let result = load(name, text, &Options::default());
    assert!(start.elapsed() < PATIENCE, "{name} took {:?}: {:.200}", start.elapsed(), text);
    let problems = match &result {
        Ok(loaded) => &loaded.warnings,
        Err(problems) => &problems.0,
    };
    assert!(result.is_ok() || !problems.is_empty());
    for problem in problems {
        assert!(!problem.reason.contains(PANICKED), "{name}: {text}");
        assert!(problem.line >= 1 && problem.column >= 1 && problem.length >= 1);
        assert!(problem.line as usize <= text.split(['\n', '\r']).count(), "{problem}\n{text}");
        let drawn = problem.to_string();
        assert!(!drawn.chars().any(|c| c.is_control() && c != '\n'), "{drawn:?}");
        assert!(drawn.len() < 8_000, "{drawn}");
    }
    let jobs = result?.jobs;
    for job in &jobs {
        let again = load("again.json", &to_json(&job.spec).to_string(), &Options::default());
        let again = again.unwrap_or_else(|problems| panic!("{problems}{text}"));
        assert_eq!(again.jobs, std::slice::from_ref(job), "{text}");
    }
    Ok(jobs.len())
}

/// A small generator with a seed, so that a failure can be repeated.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }
}

/// `FUZZ_ROUNDS=100 cargo test -p config --test hostile` looks a hundred times as long, at other inputs.
fn rounds(few: usize) -> usize {
    few * std::env::var("FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn seeds() -> Vec<(String, Vec<char>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = files.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        let wanted = name.ends_with(".aurora") || name.ends_with(".json");
        // Those that exhaust a budget are slow, and tried as they are below.
        let heavy = ["bomb", "doubling", "too_long"].iter().any(|word| name.contains(word));
        (wanted && !heavy).then(|| (name, fs::read_to_string(&path).unwrap().chars().collect()))
    });
    read.collect()
}

#[test]
fn damaged_files_are_refused_or_read() {
    let seeds = seeds();
    let sound: Vec<usize> = (0..seeds.len()).filter(|&at| !seeds[at].0.contains("error")).collect();
    let pieces: Vec<char> = "()[]{}'\"\\#,:=.*%+-{}\n\t\r 0a&\u{fdd0}é\u{0}\u{1b}".chars().collect();
    let mut chance = Chance(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..rounds(4_000) {
        let any = chance.next(seeds.len());
        let (name, text) = &seeds[if chance.next(2) == 0 { any } else { sound[chance.next(sound.len())] }];
        let mut text = text.clone();
        for _ in 0..=chance.next(4) {
            let at = chance.next(text.len() + 1);
            match chance.next(5) {
                0 => text.truncate(at),
                1 if at < text.len() => drop(text.remove(at)),
                2 => text.insert(at, pieces[chance.next(pieces.len())]),
                3 => {
                    let (other, piece) = (&seeds[chance.next(seeds.len())].1, chance.next(40));
                    let from = chance.next(other.len());
                    let piece = &other[from..(from + piece).min(other.len())];
                    text.splice(at..at, piece.iter().copied());
                }
                _ => {
                    let to = (at + chance.next(20)).min(text.len());
                    let piece = text[at.min(to)..to].to_vec();
                    text.splice(at..at, piece);
                }
            }
        }
        let text: String = text.into_iter().collect();
        match survives(name, &text) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
    }
    assert!(good > 50 && bad > 500, "the damage should hit and miss: {good} read, {bad} refused");
}

#[test]
fn random_bytes_are_refused() {
    let mut chance = Chance(11);
    for round in 0..rounds(2_000) {
        let bytes: Vec<u8> = (0..chance.next(400)).map(|_| chance.next(256) as u8).collect();
        let text = String::from_utf8_lossy(&bytes);
        let name = if round % 2 == 0 { "random.aurora" } else { "random.json" };
        assert!(survives(name, &text).is_err(), "{text}");
    }
}

#[test]
fn random_tokens_are_refused_or_read() {
    let words = [
        "jobs", "=", "Job", "(", ")", "[", "]", "{", "}", ",", "'{{a}}'", "name", "1", "2.5", "*", "%",
        "lambda", ":", "\n", "  ", "if", "else", "not", "for", "in", "f'{", "}'", "'''", "#", "task", "Task",
        ".", "bind", "x", "+", "-", "**", "order", "hello", "\\\n", "@", "await", "def", "import", ";", "\"",
        "...", "None", "append",
    ];
    let mut chance = Chance(13);
    for _ in 0..rounds(4_000) {
        let text: Vec<&str> = (0..chance.next(60)).map(|_| words[chance.next(words.len())]).collect();
        let _ = survives("tokens.aurora", &text.join(if chance.next(2) == 0 { " " } else { "" }));
    }
}

#[test]
fn files_made_to_hurt_are_refused() {
    let job = "hello = Process(name='hello', cmdline='x')\n\
               task = Task(processes=[hello], resources=Resources(cpu=1, ram=1*MB, disk=1*MB))\n\
               job = Job(cluster='c', role='r', environment='e', name='n', task=task)\n";
    let mut ifs = String::new();
    for depth in 0..2_000 {
        ifs += &format!("{}if a:\n", " ".repeat(depth));
    }
    let mut bind = format!("{job}jobs = [job(contact='{{{{a0}}}}').bind(");
    for level in 0..45 {
        bind += &format!("a{level}='{{{{a{}}}}}{{{{a{}}}}}', ", level + 1, level + 1);
    }
    bind += "a45='x')]\n";
    let cases = [
        "(".repeat(1 << 20),
        "[".repeat(1 << 20) + &"]".repeat(1 << 20),
        "a = ".to_owned() + &"-".repeat(1 << 20) + "1",
        "a = ".to_owned() + &"not ".repeat(1 << 18) + "1",
        "a = 1".to_owned() + &" + 1".repeat(1 << 18),
        "a = x".to_owned() + &".y".repeat(1 << 18),
        "a = x".to_owned() + &"()".repeat(1 << 18),
        "a = x".to_owned() + &"[0]".repeat(1 << 18),
        "a = ".to_owned() + &"1 if 1 else ".repeat(1 << 16) + "1",
        "a = ".to_owned() + &"lambda: ".repeat(1 << 16) + "1",
        "a = ".to_owned() + &"lambda a, b=".repeat(1 << 16) + "1",
        "a = ".to_owned() + &"x ** ".repeat(1 << 16) + "1",
        "a = f'".to_owned() + &"{".repeat(1 << 16),
        "a = f'{".to_owned() + &"(".repeat(1 << 16),
        "a = f\"{'}'}\" ".to_owned() + &"(".repeat(1 << 16),
        "(]\n".to_owned() + &ifs,
        ifs,
        "@a\n".repeat(1 << 16),
        "a = 'x' * 10 ** 9\n".to_owned(),
        "a = [0] * 10 ** 18\n".to_owned(),
        "a = 9 ** 9 ** 9 ** 9\n".to_owned(),
        "a = 1 << 9999999999\n".to_owned(),
        "a = '%999999999d' % 1\n".to_owned(),
        "a = '{:999999999}'.format(1)\n".to_owned(),
        "a = ','.join(['x' * 100000] * 1000000)\n".to_owned(),
        "a = 'x'.replace('', 'y' * 1000000)\na = a.replace('y', a)\n".to_owned(),
        "a = ['x']\n".to_owned() + &"a = a + a\n".repeat(64),
        "a = 'x'\n".to_owned() + &"a = a + a\n".repeat(64),
        "a = ['x']\n".to_owned() + &"a.extend(a)\n".repeat(64),
        "a = ['x']\n".to_owned() + &"a += a\n".repeat(64),
        "a = []\n".to_owned() + &"a = [a]\n".repeat(200_000) + "jobs = a\n",
        "a = {}\na['a'] = a\njobs = [Job(a), Job({'task': a})]\n".to_owned(),
        "p = Process(name='p')\n".to_owned() + &"p = p(logger=p)\n".repeat(50_000) + "jobs = [p]\n",
        format!(
            "{job}a = []\na.append(a)\njobs = [job(task=task(processes=a, constraints=a), metadata=a)]\n"
        ),
        format!("{job}jobs = [job] * 1000000\n"),
        format!("{job}jobs = [job(task=task(processes=[hello] * 1000000))]\n"),
        format!("{job}jobs = [job(contact='{{{{contact}}}}')]\n"),
        format!("{job}jobs = [job(task=task(processes=[hello(cmdline='{}')]))]\n", "{{x}}".repeat(100_000)),
        format!("{job}jobs = [job(contact='{}')]\n", "{{a".repeat(100_000) + &"}}".repeat(100_000)),
        bind,
        "x".repeat(5 << 20),
        "\u{feff}(".to_owned(),
    ];
    for text in cases {
        assert!(survives("hurt.aurora", &text).is_err(), "{:.200}", text);
    }
    let json = [
        "[".repeat(1 << 20),
        "{\"a\":".repeat(1 << 18),
        "\"".to_owned() + &"x".repeat(2 << 20) + "\"",
        "-".repeat(1 << 20),
        "1".repeat(1 << 20),
        "1e999999999".to_owned(),
        "[".to_owned() + &"{},".repeat(1 << 19) + "{}]",
        "[".to_owned() + &"0,".repeat(1 << 20) + "0]",
        "\"\\u".to_owned(),
        "\"\\ud800\\u".to_owned(),
        "\"é\\ud800é".to_owned(),
    ];
    for text in json {
        assert!(survives("hurt.json", &text).is_err(), "{:.200}", text);
    }
}

/// Five hundred jobs in one file, as platform teams generate them.
#[test]
fn five_hundred_jobs_are_read_at_once() {
    let mut text = String::from(
        "base = Service(cluster='west', environment='prod', contact='{{role}}@example.org',\n  \
         constraints={'host': 'limit:1', 'zone': 'a,b'})\njobs = []\n",
    );
    for n in 0..500 {
        text += &format!(
            "fetch_{n} = Process(name='fetch', cmdline='curl -O http://repo/{{{{role}}}}/app_{n}-{{{{version}}}}.tar')\n\
             run_{n} = Process(name='run', cmdline='./app_{n} --port={{{{thermos.ports[http]}}}} \
             --shard={{{{mesos.instance}}}}', max_failures=0)\n\
             jobs.append(base(role='team{}', name='app_{n}', instances={n} + 1, task=SequentialTask(\n  \
             processes=[fetch_{n}, run_{n}],\n  resources=Resources(cpu=0.5 + 0.001 * {n}, ram=256*MB, disk=1*GB)))\n  \
             .bind(version='1.{n}'))\n",
            n % 20
        );
    }
    let start = Instant::now();
    let loaded = load("many.aurora", &text, &Options::default()).unwrap_or_else(|p| panic!("{p}"));
    println!("500 jobs, {} KiB: {:?}", text.len() >> 10, start.elapsed());
    assert_eq!(loaded.jobs.len(), 500);
    let job = &loaded.jobs[499];
    assert_eq!(job.key.to_string(), "west/team19/prod/app_499");
    assert_eq!(job.spec.instances, 500);
    let task = job.spec.config.as_ref().unwrap().task.as_ref().unwrap();
    assert_eq!(task.processes[0].cmdline, "curl -O http://repo/team19/app_499-1.499.tar");
    assert_eq!(task.resources.unwrap().cpu_milli, 999);
    assert_eq!(task.ports, ["http"]);
    let key = "west/team7/prod/app_7".parse().unwrap();
    assert_eq!(config::select(&loaded.jobs, &key).unwrap().spec.instances, 8);
    let error =
        config::select(&loaded.jobs, &"west/team7/prod/app_8".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`west/team0/prod/app_0`") && error.contains("490 more"), "{error}");
}
