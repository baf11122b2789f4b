"""Pickles written by hand: the usual gadgets, and odd uses of what is allowed."""

import pickle
import struct
from collections.abc import Iterator
from typing import Any

__all__ = ['ENCODINGS', 'GADGETS', 'bombs', 'checkpoint_pickle', 'odd_calls']

TENSOR_V2 = ('torch._utils', '_rebuild_tensor_v2')


def py(value: Any) -> bytes:
    """Encode a value in the opcodes of torch.save; bytes are opcodes already."""
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return {None: b'N', True: b'\x88', False: b'\x89'}[value]
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b'J' + struct.pack('<i', value)
        data = pickle.encode_long(value)
        return b'\x8a' + bytes([len(data)]) + data
    if isinstance(value, float):
        return b'G' + struct.pack('>d', value)
    if isinstance(value, str):
        data = value.encode('utf-8', 'surrogatepass')
        return b'X' + struct.pack('<I', len(data)) + data
    if isinstance(value, tuple):
        return b'(' + b''.join(map(py, value)) + b't'
    if isinstance(value, list):
        return b'](' + b''.join(map(py, value)) + b'e'
    if isinstance(value, dict):
        return b'}(' + b''.join(py(k) + py(v) for k, v in value.items()) + b'u'
    raise TypeError(value)


def name(module: str, attribute: str) -> bytes:
    return f'c{module}\n{attribute}\n'.encode()


def call(function: tuple[str, str] | bytes, *args: Any) -> bytes:
    head = function if isinstance(function, bytes) else name(*function)
    return head + py(args) + b'R'


def new(cls: tuple[str, str], *args: Any) -> bytes:
    return name(*cls) + py(args) + b'\x81'


def build(target: bytes, state: Any) -> bytes:
    return target + py(state) + b'b'


def storage(
    kind: str = 'FloatStorage', key: Any = '0', location: Any = 'cpu', items: Any = 4
) -> bytes:
    return py(('storage', name('torch', kind), key, location, items)) + b'Q'


ORDERED = ('collections', 'OrderedDict')
HOOKS = call(ORDERED)


def tensor(
    offset: Any = 0, size: Any = (4,), stride: Any = (1,), grad: Any = False, hooks: Any = HOOKS,
    *more: Any, memory: bytes | None = None,
) -> bytes:  # fmt: skip
    memory = storage() if memory is None else memory
    return call(TENSOR_V2, memory, offset, size, stride, grad, hooks, *more)


def checkpoint_pickle(extra: bytes, protocol: int = 2) -> bytes:
    """The pickle of a checkpoint of one good tensor of four floats, and something beside it."""
    good = {'state_dict': {'w': tensor()}, 'extra': extra}
    return b'\x80' + bytes([protocol]) + py(good) + b'.'


# What scanners of pickles (fickling, picklescan) warn of, from memory, and what torch, NumPy,
# mmengine and this package offer on top: module, name and arguments, where CANARY is a path that
# must not come into being and COMMAND a shell command that would make it.
_CODE = "import os; os.mkdir('CANARY')"
GADGETS: list[tuple[str, str, tuple]] = [
    *((module, function, ('COMMAND',)) for module, functions in {
        'os': 'system popen putenv startfile',
        'posix': 'system popen',
        'nt': 'system',
        'commands': 'getoutput getstatusoutput',
        'subprocess': 'getoutput getstatusoutput',
        'popen2': 'popen2 popen3',
        'pty': 'spawn',
        'platform': 'popen _syscmd_ver',
        '_osx_support': '_read_output',
        '_aix_support': '_read_cmd_output',
        'distutils.ccompiler': 'CCompiler.spawn',
        'torch.utils.collect_env': 'run run_and_read_all',
        'numpy.f2py.crackfortran': 'getlincoef myeval',
        'asyncio': 'create_subprocess_shell',
        'asyncio.subprocess': 'create_subprocess_shell',
        'IPython.utils.process': 'system',
        'pexpect': 'run spawn',
        'sh': 'Command',
        'webbrowser': 'open open_new get',
        'antigravity': 'geohash',
    }.items() for function in functions.split()),
    *(('subprocess', function, (['touch', 'CANARY'],)) for function in (
        'Popen', 'call', 'run', 'check_call', 'check_output')),
    *((module, function, (_CODE,)) for module, functions in {
        'builtins': 'exec eval compile __import__ open input print help breakpoint',
        '__builtin__': 'eval execfile compile __import__ file apply reload raw_input',
        'code': 'interact InteractiveInterpreter.runcode InteractiveConsole.push compile_command',
        'timeit': 'timeit repeat main',
        'cProfile': 'run runctx',
        'profile': 'run runctx Profile.run',
        'trace': 'Trace.run Trace.runctx',
        'bdb': 'Bdb.run Bdb.runeval Bdb.runctx',
        'pdb': 'run runeval Pdb',
        'doctest': 'debug_script run_docstring_examples testsource',
        'idlelib.pyshell': 'ModifiedInterpreter.runcode ModifiedInterpreter.runcommand',
        'idlelib.run': 'Executive.runcode',
        'idlelib.autocomplete': 'AutoComplete.get_entity AutoComplete.fetch_completions',
        'idlelib.calltip': 'Calltip.fetch_tip get_entity',
        'idlelib.debugobj': 'ObjectTreeItem.SetText',
        'lib2to3.pgen2.pgen': 'ParserGenerator.make_label',
        'lib2to3.pgen2.grammar': 'Grammar.loads',
        'numpy.testing': 'runstring rundocs measure',
        'numpy.testing._private.utils': 'runstring measure',
        'numexpr': 'evaluate',
        'pandas': 'eval read_pickle',
        'pandas.core.computation.eval': 'eval',
        'sympy': 'sympify',
        'torch._dynamo.guards': 'GuardBuilder.get',
        'torch.fx.experimental.symbolic_shapes': 'ShapeEnv.evaluate_guards_expression',
        'torch.jit.unsupported_tensor_ops': 'execWrapper',
        'torch.utils.bottleneck.__main__': 'run_cprofile run_autograd_prof',
        'torch._inductor.codecache': 'compile_file PyCodeCache.load',
        'torch._inductor.runtime.compile_tasks': '_reload_python_module',
        'torch.utils.data.datapipes.utils.decoder': 'basichandlers',
        'torch.testing._internal.common_utils': 'run_process_no_exception',
        'torch.ao.quantization': 'eval',
        'aiohttp.client': 'ClientSession',
        'dis': 'dis',
        'inspect': 'getsource',
        'ast': 'literal_eval',
        'codeop': 'compile_command',
        'mmengine.config': 'Config.fromstring',
    }.items() for function in functions.split()),
    *((module, function, ('CANARY',)) for module, functions in {
        'os': 'mkdir makedirs mknod mkfifo remove unlink rmdir removedirs chmod chdir listdir '
              'execl execv posix_spawn spawnl spawnv kill abort _exit fork truncate symlink',
        'posix': 'mkdir open remove execv fork _exit',
        'shutil': 'rmtree move copy copytree make_archive unpack_archive',
        'pathlib': 'Path Path.touch Path.mkdir PosixPath.write_text WindowsPath PosixPath',
        'tempfile': 'mktemp mkdtemp NamedTemporaryFile TemporaryFile',
        'runpy': 'run_path run_module _run_code _run_module_as_main',
        'imp': 'load_source load_dynamic load_module',
        'importlib': 'import_module reload __import__',
        'importlib.machinery': 'SourceFileLoader ExtensionFileLoader',
        'importlib.util': 'spec_from_file_location',
        'zipimport': 'zipimporter',
        'pkgutil': 'resolve_name get_data',
        'logging': 'FileHandler basicConfig',
        'logging.config': 'listen fileConfig dictConfig',
        'sqlite3': 'connect',
        'dbm': 'open',
        'shelve': 'open',
        'linecache': 'getlines',
        'fileinput': 'input',
        'io': 'open FileIO open_code',
        'codecs': 'open',
        'gzip': 'open',
        'tarfile': 'open',
        'zipfile': 'ZipFile',
        'mailbox': 'Maildir mbox',
        'venv': 'create main',
        'ensurepip': '_run_pip bootstrap',
        'pip': 'main',
        'pip._internal': 'main',
        'pydoc': 'pipepager tempfilepager locate writedoc',
        '_pyrepl.pager': 'pipe_pager',
        'uuid': '_get_command_stdout',
        'distutils.file_util': 'write_file copy_file',
        'distutils.spawn': 'spawn',
        'setuptools': 'setup',
        'torch': 'load save from_file jit.load hub.load set_default_device manual_seed compile '
                 'UntypedStorage.from_file _C._load_library Tensor.tofile',
        'torch.serialization': 'load save _load _legacy_load add_safe_globals',
        'torch.hub': 'load load_state_dict_from_url download_url_to_file _import_module',
        'torch.jit': 'load save script',
        'torch.storage': '_load_from_bytes _StorageBase._load_from_bytes UntypedStorage.from_file',
        'torch.package': 'PackageImporter',
        'torch.utils.cpp_extension': 'load load_inline _import_module_from_library',
        'torch.ops': 'load_library',
        'torch.classes': 'load_library',
        'torch.utils._config_module': 'load_config ConfigModule.load_config',
        'torch._dynamo.config': 'load_config',
        'torch._inductor.config': 'load_config',
        'torch.export': 'load',
        'torch.distributed.checkpoint': 'load',
        'torch.utils.model_zoo': 'load_url',
        'torch.multiprocessing': 'spawn',
        'torch.nn.parameter': 'Parameter.__class__ Buffer UninitializedParameter',
        'torch.nn.modules.module': 'Module _addindent',
        'torch.nn.modules.linear': 'Linear',
        'torch._utils': '_import_dotted_name _rebuild_sparse_tensor _rebuild_qtensor '
                        '_rebuild_meta_tensor_no_storage _rebuild_nested_tensor classproperty '
                        '_rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy '
                        '_rebuild_device_tensor_from_cpu_tensor _rebuild_xla_tensor _set_obj_state',
        'torch.fx._symbolic_trace': 'symbolic_trace',
        'torchvision.datasets.utils': 'download_url extract_archive',
        'numpy': 'load save fromfile memmap loadtxt DataSource genfromtxt',
        'numpy.core': 'memmap',
        'numpy.core.multiarray': 'fromfile array',
        'numpy._core.multiarray': 'fromstring _vec_string',
        'numpy.lib.npyio': 'load NpzFile',
        'joblib': 'load',
        'dill': 'loads load',
        'cloudpickle': 'loads',
        'keras.models': 'load_model',
        'tensorflow': 'saved_model.load',
        'mmengine': 'Config.fromfile load',
        'mmengine.config': 'Config.fromfile',
        'mmengine.fileio': 'load get_text',
        'mmengine.registry': 'build_from_cfg Registry.build',
        'mmengine.utils': 'import_modules_from_strings mkdir_or_exist symlink',
        'mmengine.logging': 'MMLogger HistoryBuffer',
        'mmengine.logging.history_buffer': 'HistoryBuffer.register_statistics np.load np',
        'mmvheat.checkpoint': 'write_checkpoint read_checkpoint convert_file',
        'mmvheat.checkpoint.io.safe_globals': '_statistics_only',
        'checkpoint.fuzz_canary': 'fire',
        'yacs.config': 'load_cfg CfgNode.load_cfg CfgNode.__init__',
        'argparse': 'Namespace',
        'collections': 'OrderedDict.__class__ namedtuple defaultdict UserDict',
        '_codecs': 'lookup decode register escape_decode charmap_build',
        'encodings.idna': 'ToASCII',
        'builtins': 'setattr delattr globals locals vars dir type object super bytes str int list '
                    'tuple dict frozenset range memoryview map filter zip iter next sum sorted '
                    'property staticmethod exit quit id hash',
        'sys': 'exit setrecursionlimit settrace modules.get _getframe addaudithook setprofile',
    }.items() for function in functions.split()),
    *((module, function, ('localhost', 1)) for module, functions in {
        'socket': 'socket create_connection create_server getaddrinfo',
        'ssl': 'get_server_certificate',
        'http.client': 'HTTPConnection HTTPSConnection',
        'http.server': 'HTTPServer test',
        'ftplib': 'FTP',
        'smtplib': 'SMTP',
        'telnetlib': 'Telnet',
        'poplib': 'POP3',
        'xmlrpc.client': 'ServerProxy',
        'asyncio': 'open_connection run',
        'urllib.request': 'urlopen urlretrieve',
        'requests': 'get post',
        'requests.api': 'get',
        'multiprocessing': 'Process Manager Pool',
        'multiprocessing.connection': 'Client Listener',
        'multiprocessing.util': 'spawnv_passfds',
        'asyncio.unix_events': '_UnixSubprocessTransport._start',
        'threading': 'Thread Timer',
        'concurrent.futures': 'ThreadPoolExecutor ProcessPoolExecutor',
        '_thread': 'start_new_thread interrupt_main',
        'signal': 'alarm raise_signal pause',
        'time': 'sleep',
        'faulthandler': '_sigsegv _stack_overflow',
        'gc': 'get_objects',
        'ctypes': 'CDLL string_at memset cast WinDLL',
        '_ctypes': 'dlopen call_function',
        'cffi': 'FFI',
        'marshal': 'loads',
        'pickle': 'loads Unpickler',
        '_pickle': 'loads load',
        'types': 'CodeType FunctionType ModuleType MethodType SimpleNamespace',
        'functools': 'partial reduce partialmethod',
        'itertools': 'starmap repeat count',
        'operator': 'methodcaller attrgetter itemgetter call',
        '_operator': 'methodcaller attrgetter',
        'copyreg': '_reconstructor __newobj__ __newobj_ex__ add_extension pickle',
        'copy_reg': '_reconstructor',
        'copy': '_reconstruct deepcopy',
        'weakref': 'finalize',
        'atexit': 'register',
        'contextlib': 'ExitStack',
        'string': 'Formatter',
        'ipaddress': 'ip_network',
        'random': 'Random SystemRandom',
        'decimal': 'Decimal',
        'datetime': 'datetime',
        'uuid': 'uuid1 UUID',
    }.items() for function in functions.split()),
]  # fmt: skip


def filled(value: Any, canary: str) -> Any:
    """Put the canary's path into arguments."""
    if isinstance(value, (tuple, list)):
        return type(value)(filled(item, canary) for item in value)
    if isinstance(value, str):
        return value.replace('COMMAND', f'touch {canary}').replace('CANARY', canary)
    return value


def _short(text: str) -> bytes:
    return b'\x8c' + bytes([len(text.encode())]) + text.encode()


def _old_str(text: Any) -> bytes:
    return f'S{text!r}\n'.encode() if isinstance(text, str) else py(text)


# Each way in which a pickle can ask for a call; the number is the protocol it came with.
ENCODINGS = {
    'REDUCE': (2, lambda m, f, a: call((m, f), *a)),
    'NEWOBJ': (2, lambda m, f, a: new((m, f), *a)),
    'BUILD': (2, lambda m, f, a: build(call(ORDERED), {'__setstate__': name(m, f), 'a': a})),
    'value': (2, lambda m, f, a: name(m, f)),
    'MEMO': (2, lambda m, f, a: name(m, f) + b'q\x00' + py(a) + b'R'),
    'through tensor': (
        2,
        lambda m, f, a: call(
            ('torch._tensor', '_rebuild_from_type_v2'),
            name(m, f),
            name('torch', 'Tensor'),
            a,
            {},
        ),
    ),
    'as hook': (2, lambda m, f, a: tensor(hooks=call(ORDERED, [[0, name(m, f)]]))),
    'OBJ': (1, lambda m, f, a: b'(' + name(m, f) + b''.join(map(py, a)) + b'o'),
    'INST': (0, lambda m, f, a: b'(' + b''.join(map(_old_str, a)) + f'i{m}\n{f}\n'.encode()),
    'STACK_GLOBAL': (4, lambda m, f, a: _short(m) + _short(f) + b'\x93' + py(a) + b'R'),
    'NEWOBJ_EX': (4, lambda m, f, a: name(m, f) + py(a) + b'}' + b'\x92'),
    'getattr': (2, lambda m, f, a: call(('__builtin__', 'getattr'), name(m, f), 'mean')),
}


def odd_calls() -> Iterator[tuple[str, bytes]]:
    """Odd uses of what a checkpoint may hold, as something beside a good tensor."""
    huge, wild = 1 << 40, 1 << 62
    encode, array, dtype_ = ('_codecs', 'encode'), ('numpy', 'ndarray'), ('numpy', 'dtype')
    core = 'numpy._core.multiarray'
    history = ('mmengine.logging.history_buffer', 'HistoryBuffer')
    f8 = call(dtype_, 'f8', False, True)
    raw = call(encode, 'abcdefgh', 'latin1')
    empty = call((core, '_reconstruct'), name(*array), (0,), call(encode, 'b', 'latin1'))

    # Tensors: their place in the storage, their shape, their flags.
    for offset in (1, -1, huge, wild, 1 << 70, 0.0, '0', None, True, (0,), HOOKS):
        yield f'tensor offset {offset!r:.20}', tensor(offset=offset)
    for size in ((5,), (huge,), (wild, wild), (-1,), (1 << 70,), (2.0,), ('4',), 4, [4], None,
                 (1,) * 65, (4, 1), (), (0, wild), ((4,),)):  # fmt: skip
        yield f'tensor size {size!r:.20}', tensor(size=size)
        if isinstance(size, tuple):
            yield f'tensor expanded {size!r:.20}', tensor(size=size, stride=(0,) * len(size))
    for stride in ((2,), (huge,), (-1,), (1 << 70,), (0.5,), 1, None, (), (1, 1)):
        yield f'tensor stride {stride!r:.20}', tensor(stride=stride)
    for grad in (1, None, 'yes', HOOKS, {}):
        yield f'tensor grad {grad!r:.20}', tensor(grad=grad)
    for hooks in (None, {}, {1: name(*ORDERED)}, 5, name('torch', 'Tensor'),
                  build(call(ORDERED), {'a': 1})):  # fmt: skip
        yield f'tensor hooks {hooks!r:.20}', tensor(False, (4,), (1,), False, hooks)
    for metadata in ({}, {'conj': True}, {'neg': True}, {'conj': 5}, {'x': True}, 5, [],
                     name('torch', 'Tensor')):  # fmt: skip
        yield f'tensor metadata {metadata!r:.20}', tensor(0, (4,), (1,), False, HOOKS, metadata)
    yield 'tensor more arguments', tensor(0, (4,), (1,), False, HOOKS, {}, 1, 2)
    yield 'tensor no arguments', call(TENSOR_V2)
    yield 'tensor of a tensor', call(TENSOR_V2, tensor(), 0, (4,), (1,), False, HOOKS)
    yield 'tensor of a dict', call(TENSOR_V2, {}, 0, (4,), (1,), False, HOOKS)
    yield 'tensor v1', call(('torch._utils', '_rebuild_tensor'), storage(), 0, (4,), (1,))
    for dtype in ('float32', 'float64', 'complex128', 'float8_e5m2', 'qint8', 'bits8', 'nothing'):
        v3 = ('torch._utils', '_rebuild_tensor_v3')
        value = name('torch', dtype)
        yield f'tensor v3 {dtype}', call(v3, storage(), 0, (4,), (1,), False, HOOKS, value)
    yield 'a tensor made', call(('torch', 'Tensor'), 10**5, 10**6)
    yield 'a new tensor', new(('torch', 'Tensor'), 10**5, 10**6)
    yield 'a float tensor', call(('torch', 'FloatTensor'), 10**5, 10**6)
    yield 'a storage made', call(('torch', 'FloatStorage'), huge)
    yield 'an untyped storage made', call(('torch.storage', 'UntypedStorage'), huge)
    yield 'a new untyped storage', new(('torch.storage', 'UntypedStorage'), huge)
    yield 'set on a tensor', build(tensor(), (storage(), 0, (huge,), (1,)))
    yield 'built parameter', build(call(('torch.nn.parameter', 'Parameter'), tensor()), {'a': 1})
    parameter = ('torch._utils', '_rebuild_parameter')
    with_state = ('torch._utils', '_rebuild_parameter_with_state')
    from_type = ('torch._tensor', '_rebuild_from_type_v2')
    for value in (tensor(), 5, {}, name('torch', 'Tensor'), storage()):
        yield f'parameter {value!r:.12}', call(parameter, value, False, HOOKS)
    attributes = [{'a': 1}, {'detach': 1}, {'__class__': name(*ORDERED)}, {'_backward_hooks': 1},
                  {'data': 5}, {1: 2}, ({'a': 1}, {'b': 2}), 5, None, {'grad': tensor()},
                  {'requires_grad': 7}, {'no decay': True}, {'shape': (1,)}]  # fmt: skip
    for state in attributes:
        yield f'parameter state {state!r:.30}', call(with_state, tensor(), False, HOOKS, state)
        rebuilt = (storage(), 0, (4,), (1,), False, HOOKS)
        yield (
            f'tensor state {state!r:.30}',
            call(from_type, name(*TENSOR_V2), name('torch', 'Tensor'), rebuilt, state),
        )
    for function in (parameter, from_type, encode, ORDERED, ('torch', 'device')):
        yield (
            f'tensor from {function[1]}',
            call(from_type, name(*function), name('torch', 'Tensor'), (tensor(), False, HOOKS), {}),
        )
    yield (
        'tensor as a dict',
        call(
            from_type,
            name(*TENSOR_V2),
            name(*ORDERED),
            (storage(), 0, (4,), (1,), False, HOOKS),
            {},
        ),
    )

    # Storages.
    for items in (5, 0, -1, huge, wild, 1 << 70, 4.0, '4', None, True):
        yield f'storage items {items!r}', tensor(memory=storage(items=items))
        yield f'other storage items {items!r}', tensor(memory=storage(key='1', items=items))
    for key in (
        '1',
        '',
        '../data.pkl',
        '0/',
        '00',
        0,
        None,
        ('0',),
        '0\x00',
        'é',
        'A' * 5000,
        HOOKS,
    ):
        yield f'storage key {key!r:.20}', tensor(memory=storage(key=key))
    for location in ('cuda', 'cuda:99', 'mps', 'xla', 'xla:0', 'cpu:99', 'meta', 'hpu', 'npu:1',
                     'privateuseone', 'nowhere', '', 'a\nb', 5, None, HOOKS):  # fmt: skip
        yield f'location {location!r:.20}', tensor(memory=storage(location=location))
    for kind in ('DoubleStorage', 'LongStorage', 'HalfStorage', 'ByteStorage',
                 'ComplexFloatStorage',
                 'BoolStorage', 'QInt8Storage', 'QUInt8Storage', 'QInt32Storage', 'Storage',
                 'cuda.FloatStorage', 'UntypedStorage', 'TypedStorage'):  # fmt: skip
        yield f'storage {kind}', tensor(memory=storage(kind=kind, key='0', items=4))
    untyped = py(('storage', name('torch.storage', 'UntypedStorage'), '0', 'cpu', 16)) + b'Q'
    yield 'untyped storage', tensor(size=(16,), memory=untyped)
    for reference in ((), ('storage',), ('module', name(*ORDERED), 'a', 'b'), 'storage', 5, 0, [],
                      ('storage', name('torch', 'FloatStorage'), '0', 'cpu', 4, None),
                      ('storage', name('torch', 'FloatStorage'), '0', 'cpu', 4, ('1', 0, 4)),
                      ('storage', name('torch', 'FloatStorage'), '0', 'cpu', 4, None, 1),
                      ('storage', name(*ORDERED), '0', 'cpu', 4), ('storage', 5, '0', 'cpu', 4),
                      ['storage', name('torch', 'FloatStorage'), '0', 'cpu', 4], None,
                      (name('os', 'system'), 'true')):  # fmt: skip
        yield f'reference {reference!r:.50}', py(reference) + b'Q'
    yield 'a persistent id as text', b'P0\n'

    # NumPy and mmengine.
    for code in ('f8', 'O', 'O8', 'V2147483647', 'U9', 'S1', 'M8[ns]', 'f8,O', '>f8', 'b1', 5, None,
                 [('a', 'O')], ('f8', (10**9,)), name('os', 'system')):  # fmt: skip
        yield f'dtype {code!r:.20}', call(dtype_, code, False, True)
        yield f'scalar of {code!r:.20}', call((core, 'scalar'), call(dtype_, code), raw)
    for align, copy in ((True, False), (False, False), (5, 5), ('a', 'b')):
        yield f'dtype {align!r} {copy!r}', call(dtype_, 'f8', align, copy)
    good = (3, '<', None, None, None, -1, -1, 0)
    for state in (good, (3, '>', *good[2:]), (3, 'x', *good[2:]), (4, *good[1:], {'a': 1}), (3,),
                  (3, '<', None, ('a',), {'a': (f8, 0)}, 8, 1, 16), (3, '|', None, None, None,
                  10**9, 1, 0), (3, '<', (f8, (10**9,)), None, None, -1, -1, 0), {}, None, 5,
                  (99, *good[1:])):  # fmt: skip
        yield f'dtype state {state!r:.40}', build(f8, state)
    for data in (raw, call(encode, '', 'latin1'), call(encode, 'a', 'latin1'), 'abcdefgh', 5, None):
        yield f'scalar {data!r:.40}', call((core, 'scalar'), f8, data)
        yield f'array {data!r:.40}', build(empty, (1, (1,), f8, False, data))
    for shape in ((2,), (0,), (huge,), (wild, 4), (-1,), (1,) * 40, 1, None, [1], (1.0,)):
        yield f'array shape {shape!r:.20}', build(empty, (1, shape, f8, False, raw))
    objects = call(dtype_, 'O8', False, True)
    yield 'array of objects', build(empty, (1, (1,), objects, False, [name(*ORDERED)]))
    yield 'array version', build(empty, (2, (1,), f8, False, raw))
    yield 'array order', build(empty, (1, (1,), f8, 'F', raw))
    yield 'array state', build(empty, {})
    yield 'array unbuilt', empty
    for cls, shape, kind in (((core, '_reconstruct'), (0,), 'b'), (array, (huge,), raw),
                             (array, (0, 1), raw), (dtype_, (0,), raw), (ORDERED, (0,),
                             raw)):  # fmt: skip
        yield f'array of {cls[1]} {shape!r}', call((core, '_reconstruct'), name(*cls), shape, kind)
    yield 'array made', call(array, (huge,))
    yield 'new array', new(array, (10**5, 10**5))
    buffer = new(history)
    method = call(('__builtin__', 'getattr'), name(*history), 'mean')
    for state in ({}, {'max_length': 5}, {'max_length': -1}, {'max_length': 'a'}, {'evil': 1},
                  {'statistics_methods': {'mean': method}}, {'statistics_methods': {'min': method}},
                  {'statistics_methods': {'evil': method}}, {'statistics_methods': {'mean': 5}},
                  {'statistics_methods': {'mean': name(*ORDERED)}}, {'statistics_methods': 5},
                  {'_log_history': 5}, {'_log_history': empty}, {'_log_history': [1.0]},
                  {'__class__': 5}, {'update': 1}, {1: 2}, None, 5, [], ({'max_length': 1},
                  {})):  # fmt: skip
        yield f'history state {state!r:.50}', build(buffer, state)
    yield 'history with arguments', new(history, [1.0])
    yield 'history called', call(history, [1.0])
    yield 'history with options', name(*history) + b')' + py({'max_length': 1}) + b'\x92'
    for owner, attribute in ((history, 'mean'), (history, '__init__'), (history, 'update'),
                             (('torch', 'Tensor'), 'tofile'), (ORDERED, 'fromkeys'),
                             (history, 5)):  # fmt: skip
        got = call(('__builtin__', 'getattr'), name(*owner), attribute)
        yield f'getattr {owner[1]} {attribute}', got
        yield f'getattr {owner[1]} {attribute} called', call(got, buffer)
    yield 'getattr of a value', call(('__builtin__', 'getattr'), 'text', 'format')
    yield 'getattr of three', call(('__builtin__', 'getattr'), name(*history), 'mean', None)

    # Containers and plain values.
    for pairs in ([], [['a', 1]], [[[], 1]], [['a']], [5], {}, 5, 'ab', ['ab'], tensor()):
        yield f'OrderedDict {pairs!r:.20}', call(ORDERED, pairs)
        yield f'Counter {pairs!r:.20}', call(('collections', 'Counter'), pairs)
    for state in ({'a': 1}, {'__class__': 1}, {1: 2}, 5, None, ({}, {'a': 1}), [['a', 1]]):
        yield f'OrderedDict state {state!r:.20}', build(call(ORDERED), state)
        yield f'dict state {state!r:.20}', build(py({}), state)
        yield f'config state {state!r:.20}', build(new(('yacs.config', 'CfgNode')), state)
    yield 'config with arguments', new(('yacs.config', 'CfgNode'), {'a': 1})
    yield 'OrderedDict new', new(ORDERED)
    for encoding in ('latin1', 'idna', 'punycode', 'zip', 'bz2', 'rot13', 'utf-16', '../evil', 5,
                     None, 'latin-1'):  # fmt: skip
        yield f'encode {encoding!r}', call(encode, 'abc', encoding)
        yield f'bytearray {encoding!r}', call(('__builtin__', 'bytearray'), 'abc', encoding)
    yield 'encode beyond', call(encode, '\u20ac', 'latin1')
    yield 'encode errors', call(encode, 'a', 'latin1', 'ignore')
    for size in (5, huge, 10**9, -1, 'a', raw, [1, 2], None):
        yield f'bytearray of {size!r:.20}', call(('__builtin__', 'bytearray'), size)
    for values in ([1, 2], [[1]], [(1, [2])], 'ab', 5, {}, [wild * 2]):
        yield f'set {values!r}', call(('__builtin__', 'set'), values)
    for numbers in ((1.0, 2.0), ('1j',), (1,), (), ('a' * 100, 1.0)):
        yield f'complex {numbers!r:.20}', call(('__builtin__', 'complex'), *numbers)
    for device in (('cpu',), ('cuda', 1), ('cuda:99',), ('meta',), ('nowhere',), (5,), ('cpu', -1)):
        yield f'device {device!r}', call(('torch', 'device'), *device)
    for size in ((1, 2), (huge,), 5, ('a',), [1], (-1,)):
        yield f'Size {size!r}', call(('torch', 'Size'), size)
    for layout in ('torch.strided', 'torch.sparse_coo', 'evil', 5):
        yield f'layout {layout!r}', call(('torch.serialization', '_get_layout'), layout)
    for key in ((), (1, 'a'), ((1,),), [], {}, tensor(), wild * 4, 1 << 61, 0.5, None, HOOKS,
                name('torch', 'float32'), '\ud800', 'a' * 9000, raw):  # fmt: skip
        yield f'key {key!r:.20}', b'}(' + py(key) + py(1) + b'u'
    for label in ('a\nb', '\x1b[31m', '\ud800', 'n' * 3000, '', '\u202e', 7):
        yield f'tensor called {label!r:.20}', py({label: tensor()})
    yield 'extended 1', b'\x82\x01'
    yield 'extended 2', b'\x83\x01\x00'
    yield 'extended 4', b'\x84\x01\x00\x00\x00'
    yield 'called text', call(py('os.system'), 'true')
    yield 'called tensor', call(tensor(), 1)
    yield 'called dict', call(py({}), 1)
    yield 'called with a list', name(*ORDERED) + py([1]) + b'R'
    yield 'called with nothing', name(*ORDERED) + b'R'
    yield 'odd items', b'}(' + py(1) + b'u'
    yield 'items of a list', b'](' + py(1) + py(2) + b'u'
    yield 'items of a history', buffer + b'(' + py('a') + py(2) + b'u'
    yield 'appended to a dict', b'}' + py(1) + b'a'
    yield 'appended to a tensor', tensor() + py(1) + b'a'
    yield 'never stored', b'h\xff'
    yield 'never stored, long', b'j\xff\xff\xff\xff'
    yield 'no mark', b't'
    yield 'nothing left', b'0000000'
    yield 'name without end', b'cos\nsystem'
    yield 'name with a null', name('os\x00', 'system')
    yield 'name of no text', b'c\xff\xfe\nsystem\n'
    yield 'empty name', name('', '')
    yield 'name with dots', name('collections', 'OrderedDict.fromkeys.__globals__')
    yield 'stack of no texts', py(5) + py(6) + b'\x93'
    yield 'python 2 text', b'U\x03abc'
    yield 'python 2 bytes', b'U\x02\xff\xfe'
    yield 'unknown opcode', b'\xff'
    for opcode, why in {b'\x95': 'frame', b'\x8d': 'BINUNICODE8', b'\x8e': 'BINBYTES8',
                        b'\x96': 'BYTEARRAY8'}.items():  # fmt: skip
        yield f'huge {why}', opcode + b'\xff' * 7 + b'\x7f'
    yield 'huge text', b'X\xff\xff\xff\xff'
    yield 'huge bytes', b'B\xff\xff\xff\xff'
    yield 'huge number', b'\x8b\xff\xff\xff\x7f'
    yield 'negative number', b'\x8b\xff\xff\xff\xff'
    yield 'huge decimal', b'L' + b'9' * 100_000 + b'L\n'
    yield 'huge memo', b'Nr\xff\xff\xff\xff'
    yield 'long number', py(1 << 2000)


def bombs() -> Iterator[tuple[str, bytes]]:
    """A little that would become a lot, or never end."""
    yield 'deep lists', b']' * 30_000 + b'a' * 29_999
    yield 'deep tuples', b')' + b'\x85' * 100_000
    yield 'deep dicts', b'}' + (py('a') + b'}') * 20_000 + b's' * 20_000
    yield 'deep keys', b'})' + b'\x85' * 1000 + b'Ns'
    yield 'deep ordered', HOOKS + (py('a') + HOOKS) * 2_000 + b's' * 2_000
    yield 'deep attributes', HOOKS + (b'}' + py('a') + HOOKS) * 1_000 + b'sb' * 1_000
    lists = b''.join(b']r' + struct.pack('<I', i) for i in range(3000))
    recall = [b'j' + struct.pack('<I', i) for i in range(3000)]
    grown = b''.join(outer + inner + b'a' for outer, inner in zip(recall, recall[1:], strict=False))
    yield 'grown later', b'(' + lists + grown + b't'
    yield 'laughs in tuples', b')' + b''.join(b'q\x01h\x01\x86' for _ in range(80))
    yield 'laughs in a key', b'})' + b''.join(b'q\x01h\x01\x86' for _ in range(80)) + b'Ns'
    doubled = b''.join(b'q\x01](h\x01h\x01h\x01h\x01h\x01e' for _ in range(60))
    yield 'laughs in lists', b'(]' + doubled + b't'
    yield 'itself in a list', b']q\x01h\x01a'
    yield 'itself in a dict', b'}q\x01' + py('a') + b'h\x01s'
    yield 'itself in an ordered', HOOKS + b'q\x01' + py('a') + b'h\x01s'
    yield 'itself as attribute', HOOKS + b'q\x01}' + py('a') + b'h\x01sb'
    yield 'itself in a tuple', b']q\x01h\x01\x85a'
    yield 'itself through two', b']q\x01]h\x01aa'
    yield 'many lists', b'](' + b']' * 1_500_000 + b'e'
    yield 'many nothings', b'](' + b'N' * 2_000_000 + b'e'
    yield 'many dicts', b'](' + b'}' * 1_500_000 + b'e'
    yield 'many sets', b'](' + b'\x8f' * 1_000_000 + b'e'
    yield 'many marks', b'(' * 1_000_000
    yield 'many ordered', b'](' + name(*ORDERED) + b'q\x01' + b'h\x01)R' * 300_000 + b'e'
    yield 'many tensors', b'](' + tensor() + name(*TENSOR_V2) + b'q\x01' + py(
        (storage(), 0, (4,), (1,), False, HOOKS)
    ) + b'q\x02' + b'h\x01h\x02R' * 200_000 + b'e'  # fmt: skip
    text = py('x' * 1_000_000)
    encode = name('_codecs', 'encode')
    yield 'bytes again and again', b'](' + encode + b'q\x01' + py((text, 'latin1')) + b'q\x02' + (
        b'h\x01h\x02R' * 3000
    ) + b'e'  # fmt: skip
    yield 'sets again and again', b'](' + name('__builtin__', 'set') + b'q\x01' + py(
        (list(range(20_000)),)
    ) + b'q\x02' + b'h\x01h\x02R' * 5000 + b'e'  # fmt: skip
    yield 'wide text', py('x' * 9_000_000 + '\U0001f525')
    yield 'many memos', b'N' + b''.join(b'r' + struct.pack('<I', i) for i in range(600_000))
    yield 'colliding keys', b'}(' + b''.join(
        py(i * ((1 << 61) - 1)) + b'N' for i in range(1, 30_000)
    ) + b'u'  # fmt: skip
    yield 'expanded', tensor(size=(10**5, 10**6), stride=(0, 0))
    yield 'many views', b'](' + tensor(size=(4, 10**5), stride=(1, 0)) * 200 + b'e'
