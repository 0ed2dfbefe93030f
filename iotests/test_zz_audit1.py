import sys, copy, os, json, random
import pytest
from iotests import test_graph_random as g
from iotests.test_graph_random import *

class Gen(g.Generator):
    def common(self, o):
        o = super().common(o)
        if o.get('force-share') is False: o.pop('force-share')
        return o

    def __init__(self, seed):
        super().__init__(seed)
        self.known = {}
        self.n_over = 0

    def tree(self, name=None, depth=0):
        r = self.rand.random()
        if depth <= 2 and r < .12:
            o = {'node-name': name} if name else self.maybe(.2, 'node-name', NAMES)
            o.update(driver='copy-on-read', file=self.child(self.tree, None, depth + 1), **self.maybe(.4, 'bottom', NAMES))
            return self.common(o)
        if depth <= 2 and r < .2:
            o = {'node-name': name} if name else self.maybe(.2, 'node-name', NAMES)
            o.update(driver='throttle', **{'throttle-group': self.rand.choice(['g','g','g','gg'])}, file=self.child(self.tree, None, depth + 1))
            return self.common(o)
        return super().tree(name, depth)

    def changed(self, o):
        o = copy.deepcopy(o)
        if self.rand.random() < .5:
            for k in ('read-only','discard','detect-zeroes','cache','auto-read-only'):
                if self.rand.random() < .5: o.pop(k, None)
            fs = o.get('force-share'); self.common(o); o.pop('force-share', None)
            if fs is not None: o['force-share'] = fs
        if 'file' in o and self.rand.random() < .5:
            o['file'] = self.rand.choice(NAMES) if self.rand.random() < .8 else self.protocol()
        if o['driver'] == 'qcow2' and self.rand.random() < .8:
            o['backing'] = self.backing()
        if False:
            o['driver'] = self.rand.choice(['raw','qcow2','throttle'])
        if False:
            o.update(self.maybe(.5,'offset',[0,512,1<<20])); o.update(self.maybe(.5,'size',SIZES))
        if o['driver'] == 'throttle' and self.rand.random() < .3:
            o['throttle-group'] = 'g2'
        return o

    def reopen(self):
        n = self.rand.choice([1,1,1,2,2,3])
        names = self.rand.sample(NAMES, n)
        return 'blockdev-reopen', {'options': [self.changed(self.known[x]) for x in names if x in self.known]}

    def snapshot(self):
        if self.rand.random() < .6:
            return 'blockdev-snapshot', {'node': self.rand.choice(NAMES), 'overlay': self.rand.choice(NAMES)}
        self.n_over += 1
        return 'blockdev-snapshot-sync', {'node-name': self.rand.choice(NAMES), 'snapshot-file': f'o{self.n_over}.qcow2',
              **self.maybe(.9,'snapshot-node-name',NAMES+['new']), **self.maybe(.1,'format',['raw','qcow2','nope','file']),
              **self.maybe(.3,'mode',['existing','absolute-paths'])}
    def action(self):
        c, a = self.rand.choice([self.snapshot, self.snapshot, self.internal, self.bitmap])()
        return {'type': c, 'data': a}
    def bitmap(self):
        k = self.rand.choice(['block-dirty-bitmap-add','block-dirty-bitmap-add','block-dirty-bitmap-clear','block-dirty-bitmap-disable','block-dirty-bitmap-remove'])
        return k, {'node': self.rand.choice(NAMES), 'name': self.rand.choice(['b','c'])}
    def internal(self):
        return 'blockdev-snapshot-internal-sync', {'device': self.rand.choice(NAMES), 'name': self.rand.choice(['s','t','u',''])}
    def transaction(self):
        acts = [self.action() for _ in range(self.rand.randint(1,3))]
        if self.rand.random() < .2: acts.append({'type':'abort','data':{}})
        return 'transaction', {'actions': acts, **self.maybe(.1,'properties',[{'completion-mode':'grouped'},{'completion-mode':'individual'}])}
    def change_backing(self):
        return 'change-backing-file', {'device': self.rand.choice(NAMES), 'image-node-name': self.rand.choice(NAMES), 'backing-file': self.rand.choice(['b0.qcow2','','x'*1023,'x'*1024, '/a b,c'])}
    def x_change(self):
        return 'x-blockdev-change', {'parent': self.rand.choice(NAMES), **self.maybe(.5,'child',['file','backing','children.0']), **self.maybe(.5,'node',NAMES)}
    def int_delete(self):
        return 'blockdev-snapshot-delete-internal-sync', {'device': self.rand.choice(NAMES), **self.maybe(.3,'id',['1','2']), **self.maybe(.8,'name',['s','t','u'])}
    def threshold(self):
        return 'block-set-write-threshold', {'node-name': self.rand.choice(NAMES+['nope']), 'write-threshold': self.rand.choice([0,1,1<<40,(1<<63)-1,(1<<64)-1])}

    def command(self):
        r = self.rand.random()
        if r < .5: return super().command()
        for limit, f in ((.68,self.reopen),(.82,self.snapshot),(.88,self.transaction),(.9,self.internal),(.92,self.int_delete),(.95,self.change_backing),(.97,self.x_change),(.98,self.threshold),(1,self.bitmap)):
            if r < limit: return f()

SKIP = os.environ.get('SKIP','').split('|') if os.environ.get('SKIP') else []
import re
def clean(v):
    v = re.sub(r'"(date-n?sec|vm-clock-n?sec|date-sec)": \d+', r'"\1": 0', v)
    return v
def norm(server):
    if False: pass
    return [re.sub(r'"virtual-size": \d+', '', clean(x)) if '"drv": "file"' in x or '"drv": "throttle"' in x else clean(x) for x in listing(server, True)]

def test_more(pair, seed):
    ours, qemu = pair
    for s in pair:
        s.qmp('object-add', {'qom-type':'throttle-group','id':'g'})
        s.qmp('object-add', {'qom-type':'throttle-group','id':'g2'})
    gen = Gen(seed)
    hist = []
    for i in range(200):
        command, arguments = gen.command()
        if command == 'block_resize' and not is_raw(qemu, arguments['node-name']): continue
        if any(s in json.dumps([command, arguments]) for s in SKIP): continue
        if command == 'blockdev-reopen' and 'force-share' in json.dumps(arguments): continue
        if arguments == {'options': []}: continue
        want = clean(run(qemu, command, arguments))
        got = clean(run(ours, command, arguments))
        hist.append((command, arguments, want))
        if NAMELESS in want: want = got if ' is busy: ' in got else want
        if TRUNCATED in got and got != want: return
        if got != want and got.startswith('Gen') and want.startswith('Gen') and command == 'blockdev-reopen':
            open('/tmp/audit1-w/soft','a').write('%s\n   W %s\n   G %s\n' % (arguments, want, got)); got = want
        if any('data-file-raw' in x for x in norm(qemu)): return
        if 'Input/output error' in got or 'is ejected' in want or 'does not hold the image' in got or 'Parameter' in want: return
        if got != want or norm(ours) != norm(qemu) or graph(ours) != graph(qemu):
            print('SEED', seed, 'STEP', i)
            for h in hist[-int(os.environ.get('HIST','4')):]: print('  ', h)
            print('WANT', want[:900]); print('GOT ', got[:900])
            if norm(ours) != norm(qemu):
                for a, b in zip(norm(ours), norm(qemu)):
                    if a != b:
                        a, b = json.loads(a), json.loads(b)
                        for k in sorted(set(a)|set(b)):
                            if a.get(k) != b.get(k): print('LO', a.get('node-name'), k, str(a.get(k))[:800]); print('LQ', b.get('node-name'), k, str(b.get(k))[:800])
                print(len(norm(ours)), len(norm(qemu)))
            if graph(ours) != graph(qemu):
                print('GO', [x for x in graph(ours) if x not in graph(qemu)]); print('GQ', [x for x in graph(qemu) if x not in graph(ours)])
            pytest.fail('differs')
        if want == '{}':
            if command == 'blockdev-del': gen.known.pop(arguments['node-name'], None)
            if command == 'blockdev-add': gen.known[arguments['node-name']] = arguments
            if command == 'blockdev-reopen':
                for o in arguments['options']: gen.known[o['node-name']] = o
