//! Pickles as byte strings: what is understood, and what is refused. Files of `torch.save` are read in the integration tests.

use super::*;

/// `{name: a tensor of 2 x 3 F32 values}`, the tensor as `torch.save` writes it.
fn pickle_of(name: &str) -> Vec<u8> {
    let mut bytes = b"\x80\x02}q\x00(X".to_vec();
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend(name.bytes());
    bytes.extend(
        b"q\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04",
    );
    bytes.extend(
        b"X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x09tq\x07QK\x01K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09",
    );
    bytes.extend(b"\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0du.");
    bytes
}

/// The message of the error that a pickle gives.
fn refused(pickle: &[u8]) -> String {
    state_dict(pickle).expect_err("an error")
}

#[test]
fn a_tensor_is_read_with_its_place() {
    let storage = Storage { key: "0".to_owned(), dtype: Dtype::F32, len: 9 };
    let tensor = Tensor { storage, offset: 1, shape: vec![2, 3], strides: vec![3, 1] };
    assert_eq!(state_dict(&pickle_of("a.weight")), Ok(vec![("a.weight".to_owned(), tensor)]));
}

#[test]
fn a_function_that_is_not_known_is_refused_by_its_name() {
    // `os.system("touch ...")` in the places where Python would run it.
    let call = refused(b"\x80\x02cos\nsystem\nX\x06\x00\x00\x00touch \x85R.");
    assert!(call.contains("it asks for `os.system`") && call.contains("nothing of it was executed"), "{call}");
    for name in
        ["builtins\neval", "posix\nsystem", "torch\nload", "torch._utils\n_rebuild_tensor_v3", "collections\ndeque"]
    {
        let pickle = [b"\x80\x02c", name.as_bytes(), b"\n)R."].concat();
        assert!(refused(&pickle).contains(&format!("`{}`", name.replace('\n', "."))), "{name}");
    }
}

#[test]
fn instructions_that_no_state_dict_needs_are_refused() {
    // NEWOBJ, INST, OBJ, STACK_GLOBAL, EXT1, PERSID, NEWOBJ_EX, EMPTY_LIST.
    for code in [0x81, b'i', b'o', 0x93, 0x82, b'P', 0x92, b']'] {
        let message = refused(&[0x80, 2, b')', b')', code, b'a', b'\n', b'.']);
        assert!(message.contains(&format!("instruction 0x{code:02x} at byte 4")), "{message}");
    }
    assert!(refused(b"\x80\x04}.").contains("protocol 4"));
}

#[test]
fn what_is_no_dictionary_of_tensors_is_said() {
    for (pickle, expected) in [
        (b"\x80\x02K\x01.".as_slice(), "it holds a number"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "`a` is a number, not a tensor"),
        (b"\x80\x02}K\x01K\x01s.", "a key of its dictionary is a number"),
        (b"\x80\x02}}sb.", "not there"),
        (b"\x80\x02K\x01}b.", "it sets attributes of a number"),
        (b"\x80\x02K\x01)R.", "it calls a number"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "arguments that are not known"),
        (b"\x80\x02K\x01Q.", "no storage"),
        (b"\x80\x02h\x00.", "never there"),
        (b"\x80\x02(.", "not there"),
        (b"\x80\x02}(K\x01.", "not a dictionary"),
        (b"\x80\x02}(K\x01u.", "it puts 1 items into a dictionary"),
        (b"\x80\x02\x8a\x09123456789.", "too large"),
        (b"\x80\x02X\xff\xff\xff\xff.", "cut off"),
        (b"", "cut off"),
    ] {
        let message = refused(pickle);
        assert!(message.contains(expected), "`{expected}` is not in: {message}");
    }
}

#[test]
fn a_pickle_that_is_cut_off_anywhere_is_an_error() {
    let whole = pickle_of("w");
    for len in 0..whole.len() {
        assert!(state_dict(&whole[..len]).is_err(), "{len} bytes");
    }
}

/// Neither a panic nor endless memory, whatever the bytes.
#[test]
fn changed_and_random_bytes_are_survived() {
    let whole = pickle_of("w");
    let mut state = 1;
    let mut random = || {
        state = embertune_kernels::dropout::splitmix64(state);
        (state >> 32) as usize
    };
    for _ in 0..20_000 {
        let mut changed = whole.clone();
        for _ in 0..1 + random() % 3 {
            let at = random() % changed.len();
            changed[at] = random() as u8;
        }
        let _ = state_dict(&changed);
        let noise: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
        // Two lucky bytes are an empty dictionary.
        assert_eq!(state_dict(&noise).unwrap_or_default(), []);
    }
}

/// A hundred thousand tuples in each other, and as many copies of a remembered one, take no deep stack and no large memory.
#[test]
fn nesting_is_harmless() {
    let deep = [b"\x80\x02)".to_vec(), vec![0x85; 100_000], b".".to_vec()].concat();
    assert!(refused(&deep).contains("it holds a tuple"));
    let doubled = [b"\x80\x02)q\x00".to_vec(), b"h\x00\x86q\x00".repeat(100_000), b".".to_vec()].concat();
    assert!(refused(&doubled).contains("it holds a tuple"));
}

#[test]
fn numbers_have_the_sign_that_python_gives_them() {
    for (bytes, expected) in [(&[][..], 0), (&[0x7F], 127), (&[0xFF], -1), (&[0, 0x80], -32768), (&[0xFF, 0], 255)] {
        assert_eq!(whole(bytes), Ok(expected));
    }
}
