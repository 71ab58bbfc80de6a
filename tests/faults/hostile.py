"""todo"""

def template(world, chance): return "todo"
def document(world, chance): return "todo"
